"""Files replaced atomically, JSON, and the versions that a result depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import socket
from typing import Any

from ..errors import UsageError


def host() -> str:
    """This machine's name, as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:40]


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Writes a file so that a reader, or an interruption, sees the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}@{host()}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            # A full disk does not say which file did not fit.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def plain(value: Any) -> Any:
    """A value as JSON gives it back (tuples become lists), so that a record and its origin compare equal."""
    return json.loads(json.dumps(value))


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def read_json(path: pathlib.Path) -> Any:
    """Reads JSON.

    Raises:
        UsageError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} does not hold a run: {path.name} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None


def versions(*more: str) -> dict[str, str]:
    """Versions that a result depends on, and those of more packages."""
    found = {"python": platform.python_version()}
    for name in ("ldp-fast", "torch", "diffusers", "transformers", "numpy", "triton", *more):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found
