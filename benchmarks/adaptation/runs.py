"""One cell: `ldp-fast adapt` makes it, its generator's pictures are measured; each file is there as a whole or not."""

from __future__ import annotations

import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from ldp_fast.errors import UsageError
from ldp_fast.generators import load
from ldp_fast.generators.sampling import pictures
from ldp_fast.runs import files, image_files
from ldp_fast.runs.folder import finished

from ..experiment import INTERRUPTED
from ..terms.objects import make as carry_out
from . import made_by
from .measures import Judges, quantised
from .plan import Cell

FORM = 1  # of a record; those of another are measured again
COLUMNS, ROWS = 16, 4  # of the sheet of pictures
# Its own pictures at the end are not looked at: the measures draw theirs.
BARE = ("--samples", "0", "--no-film")


class Failed(UsageError):
    """A run that did not finish; it is no reason to make none of the others."""


def folder_of(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Of the run of a cell."""
    return out / "runs" / cell.name


def command(cell: Cell, folder: pathlib.Path, more: Sequence[str] = ()) -> list[str]:
    """What makes a cell, or continues it.

    Args:
        cell: what.
        folder: of the run.
        more: words of all cells.
    """
    words = [sys.executable, "-m", "ldp_fast", "adapt"]
    if (folder / "config.yaml").exists():
        return [*words, "--resume", str(folder)]
    asked = [*cell.variant.words, *more, "--seed", str(cell.seed), *BARE]
    return [*words, cell.target, *asked, "--out", str(folder)]


def adapt(
    cell: Cell,
    folder: pathlib.Path,
    more: Sequence[str],
    seconds: float,
    stop: Callable[[], bool],
    code: str,
    told: Callable[[str], None] = print,
) -> float | None:
    """Makes the run of a cell, or what is left of it; anew where other code has made or begun it.

    Args:
        cell: what.
        folder: of the run; beside it lies what was asked for, by which code, and the seconds that it took so far.
        more: words of all cells.
        seconds: after which it is interrupted.
        stop: asked meanwhile.
        code: the digest of what adapts.
        told: is given a line where a run is thrown away.

    Returns:
        The seconds that it took, all parts together. None: it was stopped.

    Raises:
        Failed: it ended otherwise.
        UsageError: other words were asked for under the same name before; the code is another one meanwhile.
    """
    _check_code(cell, code)
    note = note_of(folder)
    held = _held(folder)
    if held.get("code") != code:
        if folder.exists():
            told(f"{folder.name} was made by other code: it is made anew")
            shutil.rmtree(folder)
        held = {"words": [*cell.variant.words, *more], "seconds": 0.0, "code": code}
    check_words(cell, folder, more, code)
    if not finished(folder):
        if stop() or seconds <= 0:
            return None
        # Whoever finds the run of a process that was killed has to know what had begun it.
        files.write_json(note, held)
        started = time.perf_counter()
        try:
            ended = carry_out(command(cell, folder, more), seconds, stop)
        finally:
            if made_by.adaptation() != code:
                # Which code has made it nobody knows, also when the files are put back: without its note it is lost.
                note.unlink()
        _check_code(cell, code)
        held["seconds"] += time.perf_counter() - started
        files.write_json(note, held)
        if not finished(folder):
            if ended == INTERRUPTED:
                return None
            raise Failed(f"{folder.name}: ldp-fast adapt ended with exit code {ended}")
    return float(held["seconds"])


def _check_code(cell: Cell, code: str) -> None:
    """Checks that what a command would start now is the code that its record would name."""
    if made_by.adaptation() != code:
        raise UsageError(f"the code that adapts has changed meanwhile: the same command makes {cell.name} anew")


def check_words(cell: Cell, folder: pathlib.Path, more: Sequence[str], code: str) -> None:
    """Checks that a run is not asked for with other words than it was made with; by other code it is made anew.

    Raises:
        UsageError: it is.
    """
    held, asked = _held(folder), [*cell.variant.words, *more]
    if held.get("code") == code and held["words"] != asked:
        raise UsageError(
            f"{folder.name} was made with {' '.join(held['words'])!r}, and is asked for with {' '.join(asked)!r}: "
            "choose another --out, or another name for --variant"
        )


def note_of(folder: pathlib.Path) -> pathlib.Path:
    """Where it stands what a run was asked for, by which code, and the seconds that it took."""
    return folder.with_name(f"{folder.name}.asked.json")


def _held(folder: pathlib.Path) -> dict[str, Any]:
    note = note_of(folder)
    held: dict[str, Any] = files.read_json(note) if note.exists() else {}
    return held


def drawn(folder: pathlib.Path, z: Tensor) -> Tensor:
    """Pictures of a run's adapted generator, or of any other, in 256 steps."""
    return quantised(pictures(load(folder), z))


def record_of(path: pathlib.Path, judges: Judges | dict[str, Any], code: str | None = None) -> dict[str, Any] | None:
    """A record, if it is there and was made by these measures, and that of a cell by this code."""
    if not path.exists():
        return None
    held: dict[str, Any] = files.read_json(path)
    key = judges.key() if isinstance(judges, Judges) else judges
    return held if (held.get("form"), held.get("key"), held.get("code")) == (FORM, key, code) else None


def left_out(paths: Iterable[pathlib.Path], judges: Judges | dict[str, Any], code: str) -> str:
    """What records of cells are there and not taken, in words, such as "2 that other code has made"; '' of none."""
    there = [path for path in paths if path.exists() and record_of(path, judges, code) is None]
    made = sum(files.read_json(path).get("code") != code for path in there)
    counts = {"that other code has made": made, "that other measures have measured": len(there) - made}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def keep(path: pathlib.Path, found: dict[str, Any], judges: Judges, images: Tensor, **facts: Any) -> dict[str, Any]:
    """Writes a record, PATH.json, and the sheet of its first pictures, PATH.png; the record comes last.

    Returns:
        The record.
    """
    sheet = image_files.contact_sheet(images[: COLUMNS * ROWS], min(COLUMNS, len(images)))
    image_files.save_png(path.with_name(f"{path.name}.png"), sheet)
    record: dict[str, Any] = files.plain({"form": FORM, "key": judges.key(), **facts, "found": found})
    files.write_json(path.with_name(f"{path.name}.json"), record)
    return record
