"""What compilers made, kept in .pytest_cache by the content it was made from: one compilation for every test, process
and run that wants it. `make clean` removes it."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".pytest_cache" / "built"


@functools.cache
def headers() -> str:
    """A digest of every header a source of ours may include."""
    files = [*(ROOT / "csrc").rglob("*.h"), *(ROOT / "tests").rglob("*.h")]
    return digest(*(part for file in sorted(files) for part in (file.name, file.read_bytes())))


def digest(*parts: str | bytes) -> str:
    """A digest of texts and bytes, with their borders."""
    total = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:32]


@contextlib.contextmanager
def workshop(name: str, key: str) -> Iterator[Path]:
    """A folder that a build finds as it left it, for one process at a time.

    Args:
        name: for people.
        key: what all that is in it was made by, as a digest; of other keys nothing is kept.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = FOLDER / f"{name}-{key}"
        for other in FOLDER.glob(f"{name}-*"):
            if other != place:
                shutil.rmtree(other)
        place.mkdir(exist_ok=True)
        yield place


def kept(name: str, key: str, make: Callable[[Path], None]) -> Path:
    """Returns the file of a name and key, made if there is none; other processes wait until it is.

    Args:
        name: for people.
        key: what the content depends on, as a digest.
        make: writes the file to a path; what it raises leaves nothing behind.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    final = FOLDER / f"{name}-{key}"
    if final.exists():
        return final
    with (FOLDER / f".{name}-{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.exists():
            descriptor, part = tempfile.mkstemp(dir=FOLDER, prefix=".part-")
            os.close(descriptor)
            try:
                make(Path(part))
                os.replace(part, final)
            finally:
                Path(part).unlink(missing_ok=True)
    return final
