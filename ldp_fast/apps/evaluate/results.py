"""What an evaluation leaves: JSON that is the same to the byte each time, a picture, a table."""

from __future__ import annotations

import json
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError, reason
from ...metrics.pictures import WHITE, some
from ...runs import files
from ...runs.folder import RunFolder, application_of
from .. import registry
from ..targets import check_writable
from .gathered import Gathered

DIGITS = 6
# Of one, of several, by why they are left out.
_WHAT = {
    "not pictures": ("{} file is not a picture", "{} files are not pictures"),
    "unfinished": ("{} run is unfinished", "{} runs are unfinished"),
}


def base_of(paths: Sequence[pathlib.Path], out: pathlib.Path | None) -> pathlib.Path:
    """The folder of an evaluation's files: what --out says, or `evaluation/` in the first path.

    Raises:
        UsageError: it cannot be written to.
    """
    base = out if out is not None else paths[0] / "evaluation"
    check_writable(base)
    return base


def rounded(value: Any) -> Any:
    """Numbers with six digits that count: the others differ from one batch of pictures to another.

    Raises:
        UsageError: one is not finite.
    """
    if isinstance(value, dict):
        return {key: rounded(found) for key, found in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(found) for found in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"a number came out as {value}: pictures or weights are not finite")
        return float(f"{value:.{DIGITS}g}")
    return value


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard deviation (n − 1; None for one value)."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def plus_minus(found: dict[str, Any], factor: float = 1.0, form: str = ".4f") -> str:
    """`0.3125 ± 0.0210`."""
    tail = "" if found["std"] is None else f" ± {format(factor * found['std'], form)}"
    return f"{format(factor * found['mean'], form)}{tail}"


def record(metric: str, gathered: Gathered, background: Sequence[int], **found: Any) -> dict[str, Any]:
    """What the JSON of a metric holds.

    Args:
        metric: its name.
        gathered: the pictures.
        background: RGB, 0 to 255, behind what is transparent.
        found: numbers, and what else they depend on.
    """
    more = {"background": list(background), "views": gathered.views}
    more |= {"left_out": gathered.left_out, "versions": files.versions("pillow")}
    return dict(files.plain(rounded({"metric": metric, **found, **more})))


def write(base: pathlib.Path, name: str, result: Any, picture: bytes | None = None) -> list[pathlib.Path]:
    """Writes `NAME.json`, and `NAME.png` if there is a picture; gives their paths.

    Raises:
        UsageError: they cannot be written.
    """
    paths = [base / f"{name}.json"]
    try:
        files.write_json(paths[0], result)
        if picture is not None:
            paths.append(base / f"{name}.png")
            files.write_atomically(paths[1], picture)
    except OSError as error:
        raise UsageError(f"--out: {base} cannot be written to ({reason(error)}): choose another") from None
    return paths


def listed(paths: Sequence[pathlib.Path]) -> None:
    """Lets the runs among some paths know what was added to their folders, so that --overwrite removes it."""
    for path in paths:
        if application_of(path) is None:
            continue
        entry = registry.of_folder(path)
        if entry is not None:
            RunFolder(path, entry.application).add_later(sorted((path / "evaluation").rglob("*.*")))


def notes(gathered: Gathered) -> list[str]:
    """What is not measured, a line for each path and reason."""
    lines = []
    for path, reasons in gathered.left_out.items():
        for why, names in reasons.items():
            lines.append(f"{path}: {_WHAT[why][len(names) > 1].format(len(names))}: {some(names)}")
    return lines


def counted(count: int, what: str) -> str:
    """`1 draw`, `3 draws`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def said_of(result: dict[str, Any]) -> str:
    """A sentence for each thing that moves the numbers, and is not as it is by default; '' where all of it is."""
    said = []
    if result["views"] is not None:
        seeds, heights = result["views"]["seeds"], result["views"]["elevation"]
        height = "as each run was trained" if heights is None else f"{heights[0]:g}° to {heights[1]:g}°"
        said.append(f" Of objects {counted(len(seeds), 'view')} each, elevation {height}.")
    if result["background"] != list(WHITE):
        said.append(f" What is transparent lies on {' '.join(map(str, result['background']))}.")
    if result.get("truncated"):
        said.append(" Captions longer than the text tower were truncated.")
    return "".join(said)


def as_json(result: Any) -> str:
    """As the file has it."""
    return json.dumps(result, indent=2)
