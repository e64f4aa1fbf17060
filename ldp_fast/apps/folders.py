"""What commands that run in a folder have in common: claiming it, and resuming without changes."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

from ..errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --out, --resume and --overwrite."""
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where to (default: out/PROMPT)")
    parser.add_argument("--resume", type=pathlib.Path, metavar="DIR", help="continue the run in DIR as it was started")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that DIR already holds")


def check_free(folder: pathlib.Path, record: str, overwrite: bool) -> None:
    """Checks that a new run may use a folder.

    Args:
        folder: where to.
        record: the file by which a run is known, such as run.json.
        overwrite: whether what is there may be replaced.

    Raises:
        UsageError: it holds a run, or files that are none of ours.
    """
    if overwrite:
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is no folder: choose another --out")
        return
    if (folder / record).exists():
        raise UsageError(
            f"{folder} holds a run already: continue it with --resume {folder}, replace it with --overwrite, or "
            f"choose another --out"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty and holds no run: choose another --out, or add --overwrite")


def refuse_changes(args: argparse.Namespace, allowed: Sequence[str]) -> None:
    """Checks that --resume comes without options that would make another run of it.

    Args:
        args: of the command line, with `given`, the names of those that were typed.
        allowed: names that may be given.

    Raises:
        UsageError: names the others.
    """
    changed = [f"--{name.replace('_', '-')}" for name in args.given if name not in allowed]
    if changed:
        raise UsageError(f"--resume continues a run as it was started; it cannot change {', '.join(changed)}")


def diverged(folder: pathlib.Path, step: int, what: str) -> FloatingPointError:
    """The error of a run whose numbers are not finite any more, before it keeps anything that pushes out what is whole.

    Args:
        folder: the run's.
        step: at which it was noticed.
        what: is not finite.
    """
    return FloatingPointError(
        f"{folder} diverged before step {step}: {what} not finite; its last checkpoint is older: lower --learning-rate "
        f"or the weights"
    )
