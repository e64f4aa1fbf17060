"""The folder of an experiment that continues: which one it holds, and who works in it."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ldp_fast.errors import UsageError
from ldp_fast.runs import files

INTERRUPTED = 130  # exit code


def claim(folder: Path, plan: Any) -> None:
    """Writes a plan (a dataclass) into a folder, or checks that it is the one that is there.

    Raises:
        UsageError: the folder has another plan, or other things.
    """
    file, mine = folder / "plan.json", files.plain(dataclasses.asdict(plan))
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty and does not hold this experiment: choose another --out")
        files.write_json(file, mine)
        return
    held: dict[str, Any] = files.read_json(file)
    other = [name for name in mine if held.get(name) != mine[name]]
    if other:
        raise UsageError(f"{folder} has a plan with other {' and '.join(other)}: choose another --out")


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other process works in a folder."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another process works in {folder}") from None
        yield
