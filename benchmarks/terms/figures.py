"""The figures of docs/what_the_terms_do.md, in the style of benchmarks/plots.py."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..plots import FAINT, INK, drawn, round_numbers
from .plan import DEFAULT_GUIDANCE, GUIDANCES, LAMBDAS, Cell, Plan
from .references import SHARES
from .runs import COLUMNS
from .summary import Mean, Result, of_images

COLOURS = ("#1f77b4", "#e08a3c", "#5f9e6e", "#9a5fb5", "#b5482f", "#7d6b54")
PANELS = (
    ("share", "right, share of pictures"),
    ("perceptual", "perceptual distance to the truth"),
    ("laplacian_half", "Laplacian energy over the truth's, 64 px"),
    ("colour_error", "error of colours, ΔE"),
    ("saturation_excess", "saturation above the truth's"),
    ("deviation", "σ of the latents"),
)
OVER_STEPS = PANELS[:3]
Found = Mapping[Cell, Result]


@dataclasses.dataclass(frozen=True)
class Line:
    """Points of one curve: x, and a summary (`of_images`) each."""

    label: str
    points: list[tuple[float, dict[str, Any]]]
    dashed: bool = False


def _point(found: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """Value, low end, high end."""
    if name == "share":
        return found["share"], *found["interval"]
    mean: Mean | None = found[name]
    return None if mean is None else (mean.value, mean.low, mean.high)


def _panel(axes: Any, lines: Sequence[Line], name: str, title: str, reach: Mapping[str, dict[str, Any]]) -> None:
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        points = [(x, point) for x, found in line.points if (point := _point(found, name)) is not None]
        if not points:
            continue
        x = np.array([x for x, _ in points]) + 0.04 * (number - (len(lines) - 1) / 2)
        y, low, high = np.array([point for _, point in points]).T
        axes.plot(x, y, "--" if line.dashed else "-", marker="o", markersize=3.5, color=colour, label=line.label)
        axes.fill_between(x, low, high, color=colour, alpha=0.10 if len(lines) > 3 else 0.16, linewidth=0)
    for number, (label, found) in enumerate(reach.items()):
        point = _point(found, name)
        if point is not None:
            axes.axhline(point[0], color=FAINT, linestyle=(":", "-.")[number % 2], linewidth=1, label=label)
    if name == "laplacian_half":
        axes.set_yscale("log")
        axes.autoscale_view()
        ticks = round_numbers(*axes.get_ylim())
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_ylim(ticks[0], ticks[-1])
        axes.minorticks_off()
    if name == "share":
        axes.set_ylim(-0.03, 1.03)
    axes.set_title(title, loc="left")
    axes.grid(True, color=FAINT, alpha=0.25)


def over_weight(lines: Sequence[Line], letter: str, reach: Mapping[str, dict[str, Any]], file: pathlib.Path) -> bool:
    """Curves over a λ, whose places are even; False where no curve has two points."""
    lines = [line for line in lines if len(line.points) > 1]
    if not lines:
        return False
    ticks = sorted({x for line in lines for x, _ in line.points})
    even = [
        dataclasses.replace(line, points=[(float(ticks.index(x)), found) for x, found in line.points]) for line in lines
    ]
    with drawn(file, 2, 3, size=(12, 6.6)) as axes:
        for axis, (name, title) in zip(axes.flat, PANELS, strict=True):
            _panel(axis, even, name, title, reach if name != "deviation" else {})
            axis.set_xticks(range(len(ticks)), [f"{x:g}" for x in ticks])
            axis.set_xlabel(letter)
        axes[0, 0].legend(frameon=False, fontsize=7, loc="best")
    return True


def over_steps(lines: Sequence[Line], reach: Mapping[str, dict[str, Any]], file: pathlib.Path) -> bool:
    """How pictures come to be; False without a curve."""
    if not lines:
        return False
    with drawn(file, 1, 3, size=(12, 3.6)) as axes:
        for axis, (name, title) in zip(axes[0], OVER_STEPS, strict=True):
            _panel(axis, lines, name, title, reach)
            axis.set_xlabel("step")
        axes[0, 1].legend(frameon=False, fontsize=7, loc="best")
    return True


def lines_of(found: Found, kl: float, fm: float, of: str) -> list[Line]:
    """The curves over λ1 (`of` is `fm`) or λ2 (`kl`), of what there is.

    Args:
        found: results by cells.
        kl: λ2 of the curves over λ1.
        fm: λ1 of the curves over λ2, on `balanced`; the others have 0.
        of: which λ.
    """
    lines = []
    choices: list[tuple[str, str, float, float]] = []
    for guidance in sorted(GUIDANCES, key=lambda g: g != DEFAULT_GUIDANCE):
        choices.append((f"balanced, guidance {guidance:g}", "balanced", guidance, fm))
    choices += [(f"{scale}, guidance 5", scale, DEFAULT_GUIDANCE, 0.0) for scale in ("latent", "literal")]
    if of == "kl":
        choices = [choices[0], ("λ1 = 0, guidance 5", "balanced", DEFAULT_GUIDANCE, 0.0), *choices[1:4], choices[5]]
    for label, scale, guidance, other in choices:
        points = []
        for value in LAMBDAS:
            pair = (value, kl) if of == "fm" else (other, value)
            cell = Cell(*pair, guidance, scale).simplest()
            if cell in found:
                points.append((value, found[cell].last))
        lines.append(Line(label, points, scale != "balanced"))
    return lines


def branch_lines(found: Found, kl: float, names: Sequence[str]) -> list[Line]:
    """The curves over λ1 for each way to weigh the branches."""
    lines = []
    for name in names:
        cells = [Cell(value, kl, branches=name).simplest() for value in LAMBDAS]
        lines.append(Line(name, [(cell.lambda_fm, found[cell].last) for cell in cells if cell in found]))
    return lines


def course(result: Result, label: str) -> Line:
    """A cell over its checkpoints."""
    return Line(label, [(step, of_images(images)) for step, images in zip(result.steps, result.images, strict=True)])


def cancelling(rows: Sequence[Mapping[str, Any]], file: pathlib.Path) -> bool:
    """What is left of both branches over the size of r; False without rows."""
    if not rows:
        return False
    with drawn(file, 1, 2, size=(10, 3.8)) as axes:
        for axis, kind in zip(axes[0], dict.fromkeys(row["latents"] for row in rows), strict=False):
            for row, colour in zip([row for row in rows if row["latents"] == kind], COLOURS, strict=False):
                y = [row[f"left at {share:g}"] for share in SHARES]
                axis.plot(SHARES, y, marker="o", markersize=3.5, color=colour, label=f"t = {row['t']}")
            axis.plot([0.01, 0.3], [0.01, 0.3], color=INK, linewidth=0.8, linestyle=":", label="slope 1")
            axis.set(xscale="log", yscale="log", xlabel="factor on r", ylabel="‖a + b‖ / ‖b‖")
            axis.set_title(f"What is left of both branches: {kind}", loc="left")
            axis.grid(True, color=FAINT, alpha=0.25)
        axes[0, 0].legend(frameon=False, fontsize=7)
    return True


def pictures(
    columns: Sequence[tuple[str, Result]], folder: pathlib.Path, plan: Plan, file: pathlib.Path, rows: int = 6
) -> bool:
    """Pictures at the end: a column a cell, a row a prompt (the first of the plan); False without cells."""
    from PIL import Image

    sheets = []
    for label, result in columns:
        made = folder / f"{result.files[0]}.png"
        if made.exists():
            with Image.open(made) as opened:
                sheets.append((label, np.asarray(opened.convert("RGB"))))
    if not sheets:
        return False
    count = min(rows, len(plan.prompts))
    with drawn(file, count, len(sheets), size=(1.45 * len(sheets) + 1.2, 1.5 * count + 0.5)) as axes:
        for column, (label, sheet) in enumerate(sheets):
            side = sheet.shape[1] // COLUMNS
            for row in range(count):
                top, left = side * (row // COLUMNS), side * (row % COLUMNS)
                axes[row, column].imshow(sheet[top : top + side, left : left + side])
                axes[row, column].set(xticks=[], yticks=[])
                axes[row, column].spines[:].set_visible(False)
            axes[0, column].set_title(label, fontsize=8)
        for row in range(count):
            words = plan.prompts[row].split()
            half = (len(words) + 1) // 2
            axes[row, 0].set_ylabel(f"{' '.join(words[:half])}\n{' '.join(words[half:])}", fontsize=7)
    return True
