"""An experiment that continues: its command, which plan its folder holds, who works in it, and its place in a page."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ldp_fast.errors import UsageError
from ldp_fast.runs import files
from ldp_fast.runs.interruption import Interruption

INTERRUPTED = 130  # exit code


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """A command's options, of which `--out` is the first.

    Args:
        name: of the module, behind `python -m`.
        about: the package's text.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the experiment")
    return made


def command(name: str, folder: Path, plan: Callable[[], Any], work: Callable[[Any, Callable[[], bool]], None]) -> int:
    """An experiment's command: claims its folder, and works there alone.

    Args:
        name: of the module, for what is said to people.
        folder: the experiment's.
        plan: makes the plan, a dataclass, of what was said.
        work: of the plan, and of a function that says whether to stop: an interruption was asked for.

    Returns:
        0; 2 for what it refuses, 130 after an interruption, after which it continues.
    """
    try:
        made = plan()
        claim(folder, made)
        with alone(folder), Interruption() as interruption:
            work(made, lambda: interruption.requested)
            if interruption.requested:
                print("interrupted; the same command continues", file=sys.stderr)
                return INTERRUPTED
            return 0
    except UsageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def claim(folder: Path, plan: Any) -> None:
    """Writes a plan (a dataclass) into a folder, or checks that it is the one that is there.

    Raises:
        UsageError: the folder has another plan, or other things; it is not one, or cannot be written to.
    """
    file, mine = folder / "plan.json", files.plain(dataclasses.asdict(plan))
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out: {folder} is not a folder")
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty and does not hold this experiment: choose another --out")
        try:
            files.write_json(file, mine)
        except OSError as error:
            raise UsageError(f"--out: {folder} cannot be written to: {error.strerror}") from None
        return
    held: Any = files.read_json(file)
    if not isinstance(held, dict):
        raise UsageError(f"{file} is damaged: expected an object, got {type(held).__name__}")
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


def check_page(file: Path, marks: tuple[str, str]) -> None:
    """Checks that a page has the marks between which the results belong.

    Raises:
        UsageError: it does not, or cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--page: {file} cannot be read: {error.strerror}") from None
    if not (0 <= text.find(marks[0]) < text.find(marks[1])):
        raise UsageError(f"--page: expected {marks[0]} and {marks[1]} in {file}")


def check_limits(args: argparse.Namespace) -> None:
    """Checks --limit-cells, --limit-minutes and --seeds of an experiment of cells.

    Raises:
        UsageError: one of them is out of its range.
    """
    if args.limit_cells is not None and args.limit_cells < 0:
        raise UsageError(f"--limit-cells: expected at least 0, got {args.limit_cells}")
    if args.limit_minutes is not None and not 0 <= args.limit_minutes < math.inf:
        raise UsageError(f"--limit-minutes: expected a number of at least 0, got {args.limit_minutes}")
    if min(args.seeds) < 0:
        raise UsageError(f"--seeds: expected numbers of at least 0, got {min(args.seeds)}")


def told(made: argparse.ArgumentParser, args: argparse.Namespace, names: Iterable[str]) -> str:
    """The command that makes all of it in one go, and its page, without where things are on this machine.

    Args:
        made: by `parser`.
        args: what was said.
        names: of the options that decide what comes out; those that have their defaults go without saying.
    """
    words = [f"{made.prog} --out DIR"]
    for name in names:
        value = getattr(args, name)
        if value == made.get_default(name):
            continue
        several = value if isinstance(value, list) else [value]
        # An option that may be given several times has a list for each.
        for said in several if several and isinstance(several[0], list) else [several]:
            words.append(shlex.join([f"--{name.replace('_', '-')}", *map(str, said)]))
    return " ".join([*words, "--page"])


def end_of(limit_minutes: float | None) -> float:
    """When to stop, of time.monotonic; never where there is no limit."""
    return math.inf if limit_minutes is None else time.monotonic() + 60 * limit_minutes


def write_results(out: Path, made: str, target: Path | None, marks: tuple[str, str], pattern: str) -> Path:
    """Writes `results.md` into the folder, and it and its figures into a page where there is one; returns the last.

    Args:
        out: the folder, with the figures in `images`.
        made: the results.
        target: the page.
        marks: between which they belong there.
        pattern: of the figures' names.
    """
    files.write_atomically(out / "results.md", f"{made}\n".encode())
    if target is None:
        return out / "results.md"
    write_page(target, marks, made, sorted((out / "images").glob(pattern)))
    return target


def write_page(file: Path, marks: tuple[str, str], made: str, pictures: Iterable[Path]) -> None:
    """Writes results between the marks of a page, and the pictures they show into `images` beside it."""
    text = file.read_text(encoding="utf-8")
    before, after = text.partition(marks[0])[0], text.partition(marks[1])[2]
    files.write_atomically(file, f"{before}{marks[0]}\n\n{made}\n\n{marks[1]}{after}".encode())
    for picture in pictures:
        files.write_atomically(file.parent / "images" / picture.name, picture.read_bytes())
