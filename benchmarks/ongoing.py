"""Files of rows of runs that go on, or were killed: who holds one, and what becomes of it.

A run holds the lock of its file of rows, and pytest, which it starts, holds it too. So a file whose lock is free is of
a run that is over, whatever has ended it, and the next run takes what is in it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

from . import lines, results

try:
    import fcntl
except ModuleNotFoundError:  # Windows: runs in one folder have to come one after another there
    fcntl: Any = None  # type: ignore[no-redef]

SUFFIX = ".rows.jsonl"


def begin(folder: Path, known: Container[str]) -> tuple[str, Path, IO[bytes]]:
    """Names a run by its second, as no other is, and makes its file of rows.

    Args:
        folder: of the results.
        known: runs that there have been.

    Returns:
        The name; the file; and the open file, which has its lock until it is closed here and in every child.
    """
    while True:
        run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        file = folder.resolve() / f"{run.replace(':', '').replace('-', '')}{SUFFIX}"
        with alone(folder), contextlib.suppress(FileExistsError):
            if run not in known:
                held = file.open("xb")
                if fcntl is not None:
                    fcntl.flock(held, fcntl.LOCK_EX)
                return run, file, held
        time.sleep(0.1)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within it no other run changes the results of a folder."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def take_over(folder: Path, file: Path) -> None:
    """Puts the rows of runs that were killed into a machine's results, and removes their files.

    What a later run has measured stays. A file that cannot be read is put aside, as `*.broken`.
    """
    for left in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(FileNotFoundError), _free(left) as free:
            if not free:
                continue
            try:
                _merge(left, file)
            except (KeyError, TypeError, ValueError, AttributeError, IsADirectoryError) as error:
                broken = left.with_suffix(".broken")
                left.rename(broken)
                print(f"benchmarks: {left.name} is not a file of rows ({error!r}), and is now {broken.name}")


@contextlib.contextmanager
def _free(file: Path) -> Iterator[bool]:
    if fcntl is None or file.is_dir():
        yield file.is_dir()
        return
    with file.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _merge(left: Path, file: Path) -> None:
    first = next(lines.read(left), None)
    if first is None or first.get("slug", file.stem) != file.stem:
        if not left.stat().st_size:
            left.unlink()
        elif first is None:
            raise ValueError("no line of it is whole")
        return
    about, rows = first["about"], results.read_rows(left)
    run = about["date"]
    for row in rows:
        if not {"file", "test", "group", "backend", "extra"} <= set(row):
            raise KeyError(f"a row without {sorted({'file', 'test', 'group', 'backend', 'extra'} - set(row))}")
    old = results.read(file) if file.exists() else results.empty(first["machine"])
    later = {results.group_of(row) for row in old["rows"] if row["run"] >= run}
    rows = [row for row in rows if results.group_of(row) not in later]
    if rows:
        about["whole"] = sorted({*about.get("whole", ()), *results.whole(rows, cut=True)})
        results.write(file, results.merge(old, rows, run, about, first["machine"], cut=True))
        print(f"benchmarks: {len(rows)} rows of the run of {run}, which was killed, are taken over")
    left.unlink()
