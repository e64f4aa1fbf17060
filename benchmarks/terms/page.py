"""What was found as tables and figures, and their place between the marks of docs/what_the_terms_do.md."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldp_fast.guidance.presets import find_preset
from ldp_fast.runs import files
from ldp_fast.runs.tables import markdown_table

from .. import machine
from ..experiment import check_page, write_results
from . import figures, objects
from .branches import BRANCHES
from .measures import CRITERIA
from .plan import DEFAULT_GUIDANCE, GUIDANCES, LAMBDAS, PRESET, SCALES, Cell, Plan
from .references import SHARES, START
from .summary import Mean, Result, against, of_images, read

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "what_the_terms_do.md"
MARKS = ("<!-- made by python -m benchmarks.terms -->", "<!-- end of what it made -->")
NOTHING = "Not measured yet."
Found = Mapping[Cell, Result]


def check(file: pathlib.Path) -> None:
    """Checks that a page has the marks.

    Raises:
        UsageError: it does not, or cannot be read.
    """
    check_page(file, MARKS)


# How measures are told: what they are multiplied by, and digits after the point.
TOLD = {
    "perceptual": (1, 3),
    "laplacian": (1, 2),
    "laplacian_half": (1, 2),
    "colour_error": (1, 1),
    "stray": (100, 1),
    "saturation": (1, 3),
    "saturation_excess": (1, 3),
    "clipped": (100, 1),
    "deviation": (1, 2),
}


def number(mean: Mean | None, name: str) -> str:
    """A mean with its interval: ± half of it, or for ratios × and ÷."""
    if mean is None:
        return "–"
    factor, digits = TOLD[name]
    value, half = (f"{x:.{digits}f}" for x in (factor * mean.value, mean.half if mean.ratio else factor * mean.half))
    return f"{value.replace('-', '−')} {'×÷' if mean.ratio else '±'} {half}"


def right(found: Mapping[str, Any]) -> str:
    """Share of right pictures with its interval, per cent."""
    low, high = found["interval"]
    return f"{found['right']}/{found['images']} = {100 * found['share']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


HEAD = ["right (95 %)", "fails: " + ", ".join(CRITERIA), "perceptual", "Laplacian, 64 px", "128 px", "ΔE", "stray, %"]
HEAD += ["saturation above", "clipped, %", "σ"]
PAIRED = ("perceptual", "laplacian_half", "colour_error", "stray", "saturation", "clipped")


def cells_of(found: Mapping[str, Any]) -> list[str]:
    """The columns of `HEAD`."""
    fails = ", ".join(str(found["failing"][name]) for name in CRITERIA)
    told = [right(found), fails]
    names = ("perceptual", "laplacian_half", "laplacian", "colour_error", "stray", "saturation_excess", "clipped")
    return [*told, *(number(found[name], name) for name in (*names, "deviation"))]


def table(
    rows: Sequence[tuple[str, Cell]], found: Found, base: Cell | Callable[[Cell], Cell], start: float | None
) -> str:
    """Cells, and what they have against a base, picture by picture; `NOTHING` where none is there.

    Args:
        rows: labels and cells.
        found: what there is.
        base: the cell that the others are held against, or what finds it for each.
        start: perceptual distance of the initial latents, decoded.
    """
    lines, beside = [], []
    for label, cell in rows:
        result = found.get(cell.simplest())
        if result is None:
            continue
        ninety = result.to_ninety(start)
        steps = ", ".join("–" if x is None else f"{x:.0f}" for x in (ninety["right"], ninety["perceptual"]))
        lost = f" ({result.diverged} diverged)" if result.diverged else ""
        lines.append([label + lost, *cells_of(result.last), steps, f"{1e3 * result.seconds:.0f}"])
        other = found.get((base if isinstance(base, Cell) else base(cell)).simplest())
        if other is not None and result is not other:
            pair = against(result, other)
            means = [number(pair[name], name) for name in PAIRED]
            beside.append([label, f"+{pair['gained']} −{pair['lost']}", *means])
    if not lines:
        return NOTHING
    told = markdown_table(["", *HEAD, "steps to 90 %", "ms a step"], lines)
    head = ["against the base", "right", "perceptual", "Laplacian, 64 px", "ΔE", "stray, %", "saturation", "clipped, %"]
    return told + (f"\n\n{markdown_table(head, beside)}" if beside else "")


def grid(found: Found, of: str, fm: float, kl: float) -> str:
    """Shares of right pictures and perceptual distance over λ × guidance, for each scale."""
    letter, parts = ("λ1", "λ2")[of == "kl"], []
    for scale in SCALES:
        other = fm if scale == "balanced" else 0.0
        lines = []
        for value in LAMBDAS:
            row = []
            for guidance in GUIDANCES:
                pair = (value, kl) if of == "fm" else (other, value)
                result = found.get(Cell(*pair, guidance, scale).simplest())
                near = None if result is None else result.last["perceptual"]
                row.append(
                    "" if near is None or result is None else f"{100 * result.last['share']:.0f} %, {near.value:.3f}"
                )
            if any(row):
                lines.append([f"{value:g}", *row])
        if lines:
            beside = f"λ2 = {kl:g}" if of == "fm" else f"λ1 = {other:g}"
            head = [letter, *(f"guidance {guidance:g}" for guidance in GUIDANCES)]
            parts.append(f"Scale `{scale}`, {beside}:\n\n{markdown_table(head, lines)}")
    return "\n\n".join(parts) or NOTHING


def _references(held: Mapping[str, Sequence[Any]] | None) -> str:
    if not held:
        return NOTHING
    return markdown_table(["", *HEAD], [[name, *cells_of(of_images(images))] for name, images in held.items()])


def _cancelling(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return NOTHING
    head = ["latents", "t", "α_t", "r, rms", *(f"left at {share:g} r" for share in SHARES)]
    head += ["cosine with r: v′ alone", "both with 1", "the paper's"]
    lines = []
    for row in rows:
        left = [f"{row[f'left at {share:g}']:.3f}" for share in SHARES]
        cosines = [f"{row[f'cosine_{name}']:.2f}" for name in ("v_prime", "both", "paper")]
        lines.append([row["latents"], str(row["t"]), f"{row['alpha']:.2f}", f"{row['rms']:.2f}", *left, *cosines])
    return markdown_table(head, lines)


def _cost(held: Mapping[str, Any] | None) -> str:
    if not held:
        return NOTHING
    rows, names = held["seconds"], {"lsd": "LSD", "lsd-kl": "LSD + KL", "lsd-fm": "LSD + FM", "full": "all three"}
    alone = rows["lsd"]
    lines = [
        [
            name,
            *(f"{1e3 * rows[key][kind]:.0f}" for kind in ("min", "median")),
            f"{rows[key]['min'] / alone['min']:.2f}",
        ]
        for key, name in names.items()
    ]
    head = [f"gradient of {held['samples']} latents", "shortest, ms", "median, ms", "of LSD alone"]
    return markdown_table(head, lines)


def objects_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of `objects.rows`."""
    if not rows:
        return NOTHING
    head = ["method", "losses", "right (95 %)", "IoU", "ΔE", "stray", "fog", "Laplacian, 64 px", "perceptual"]
    lines = []
    for row in rows:
        told = right({**row, "images": row["objects"]})
        means = [row[name] for name in ("iou", "colour_error", "neither", "fog", "laplacian_half", "perceptual")]
        lines.append([row["method"], row["losses"], told, *("–" if x is None else f"{x:.3g}" for x in means)])
    return markdown_table(head, lines)


def _held(out: pathlib.Path, name: str, judge: str | None = None) -> Any:
    file = out / f"{name}.json"
    held = files.read_json(file) if file.exists() else {}
    return held.get("found") if held.get("judge") == judge else None


def figure(name: str, text: str) -> str:
    """A picture of the page, on a line of its own."""
    return f"![{text}](images/terms_{name}.png)"


def document(out: pathlib.Path, plan: Plan, wanted: Sequence[tuple[str, Cell]], judge: str, command: str) -> str:
    """What stands between the marks; the figures are written to `images` in the folder.

    Args:
        out: folder of the experiment.
        plan: of it.
        wanted: all its cells.
        judge: of the perceptual distance.
        command: that makes it all.
    """
    settings = find_preset(PRESET).settings
    fm, kl = settings.lambda_fm, settings.lambda_kl
    found, images = read(out / "cells", plan, [cell for _, cell in wanted], judge), out / "images"
    marks, held = _held(out, "references", judge), _held(out, "branches") or []
    start = of_images(marks[START])["perceptual"].value if marks else None
    reach = {name: of_images(rows) for name, rows in (marks or {}).items() if name != START and "true renders" != name}
    about, there = machine.describe(), sum(len(result.files) for result in found.values())
    facts = (
        f"Made by `{command}` on {about['cpu']}, {about['cores']} core{'s' * (about['cores'] != 1)}"
        f"{', ' + about['gpu'] if about['gpu'] else ''}: {there} of {len(wanted)} cells, {len(plan.prompts)} pictures "
        f"each, {plan.steps} steps, weights `{plan.weights}`, perceptual distance by the CLIP of `{judge}`."
    )

    def shown(name: str, made: bool, text: str) -> list[str]:
        return [figure(name, text)] if made else []

    groups = {group for group, cell in wanted if replace(cell, seed=0) in found}

    def begun(group: str, parts: Callable[[], list[str]]) -> list[str]:
        # Of a group that nobody has begun the cells of others would be shown once more.
        return parts() if group in groups else [NOTHING]

    def where(name: str) -> pathlib.Path:
        return images / f"terms_{name}.png"

    corners = {"LSD": (0.0, 0.0), "LSD + KL": (0.0, kl), "LSD + FM": (fm, 0.0), "all three": (fm, kl)}
    variants = [(name, Cell(*pair).simplest()) for name, pair in corners.items()]
    alone, sweep = Cell(0.0, 0.0), [Cell(value, kl) for value in LAMBDAS]
    courses = [figures.course(found[cell], name) for name, cell in variants if cell in found]
    kept = [cell for name in BRANCHES for cell in _branch_cells(name, fm, kl)]
    columns = [(name, found[cell]) for name, cell in variants if cell in found]
    columns += [(f"λ1 = {x:g}", found[Cell(x, kl)]) for x in (0.1, 1.0) if Cell(x, kl) in found]
    columns += [
        (f"λ1 = {fm:g}, {x}", found[c]) for x in ("ones", "v-prime") if (c := Cell(fm, kl, branches=x)) in found
    ]
    few_fm = [Cell(x, kl, g) for g in GUIDANCES for x in (0.0, 0.3, fm)]
    few_kl = [Cell(x, y, g) for g in GUIDANCES for x in (0.0, fm) for y in (0.0, kl, 1.0)]
    over_fm, over_kl = (figures.lines_of(found, kl, fm, of) for of in ("fm", "kl"))
    parts = [
        facts,
        "### What is reachable",
        _references(marks),
        "### The four choices of terms",
        table([(name, cell) for name, cell in variants], found, alone, start),
        *shown("steps", figures.over_steps(courses, reach, where("steps")), "The four choices over the steps"),
        *shown("pictures", figures.pictures(columns, out / "cells", plan, where("pictures")), "Pictures at the end"),
        "### λ1",
        f"Guidance {DEFAULT_GUIDANCE:g}, scale `balanced`, λ2 = {kl:g}; the base is λ1 = 0.",
        table([(f"λ1 = {cell.lambda_fm:g}", cell) for cell in sweep], found, sweep[0], start),
        *shown("fm", figures.over_weight(over_fm, "λ1", reach, where("fm")), "Measures over λ1"),
        "### λ2",
        f"Guidance {DEFAULT_GUIDANCE:g}, scale `balanced`; the base is λ2 = 0 with the same λ1.",
        *(
            table([(f"λ1 = {x:g}, λ2 = {y:g}", Cell(x, y)) for y in LAMBDAS], found, Cell(x, 0.0), start)
            for x in (fm, 0.0)
        ),
        *shown("kl", figures.over_weight(over_kl, "λ2", reach, where("kl")), "Measures over λ2"),
        "### Guidance",
        "The base is the same guidance with λ1 = 0, then with λ2 = 0.",
        *begun(
            "guidance",
            lambda: [
                table(_guided(few_fm), found, lambda cell: replace(cell, lambda_fm=0.0), start),
                table(_guided(few_kl), found, lambda cell: replace(cell, lambda_kl=0.0), start),
            ],
        ),
        "### Scales",
        *begun(
            "scale",
            lambda: [
                table([(_named(cell), cell) for cell in _scale_cells(scale, kl)], found, Cell(0.0, kl), start)
                for scale in SCALES[1:]
            ],
        ),
        "### The factor 1 + α_t",
        _cancelling(held),
        *shown(
            "cancelling", figures.cancelling(held, where("cancelling")), "What the branches leave over the size of r"
        ),
        table([(f"{_named(cell)}, {cell.branches}", cell) for cell in kept], found, Cell(0.0, kl), start),
        *shown(
            "branches",
            figures.over_weight(figures.branch_lines(found, kl, list(BRANCHES)), "λ1", reach, where("branches")),
            "Measures over λ1 for each way to weigh the branches",
        ),
        "### The whole grid",
        "Share of right pictures, and perceptual distance, at the end.",
        *begun("rest", lambda: [grid(found, "fm", fm, kl), grid(found, "kl", fm, kl)]),
        "### What a step costs",
        _cost(_held(out, "cost")),
        "### Objects",
        objects_table(objects.rows(out / "objects", judge)),
    ]
    return "\n\n".join(parts)


def _branch_cells(name: str, fm: float, kl: float) -> list[Cell]:
    made = [Cell(fm, kl, branches=name, lambda_lsd=0.0)]
    made += [Cell(x, kl, branches=name) for x in (0.3, 1.0, fm)]
    return made + [Cell(x, kl, scale="latent", branches=name) for x in (0.03, 0.1)]


def _scale_cells(scale: str, kl: float) -> list[Cell]:
    over_fm = [Cell(x, kl, scale=scale) for x in LAMBDAS]
    # Without feature matching `latent` is `balanced`.
    over_kl = [Cell(0.0, x, scale=scale) for x in LAMBDAS] if scale == "literal" else []
    return list(dict.fromkeys(over_fm + over_kl))


def _guided(cells: Sequence[Cell]) -> list[tuple[str, Cell]]:
    return [(f"guidance {c.guidance:g}, λ1 = {c.lambda_fm:g}, λ2 = {c.lambda_kl:g}", c) for c in cells]


def _named(cell: Cell) -> str:
    words = [] if cell.scale == "balanced" else [f"`{cell.scale}`"]
    words += [] if cell.guidance == DEFAULT_GUIDANCE else [f"guidance {cell.guidance:g}"]
    words += [f"λ1 = {cell.lambda_fm:g}", f"λ2 = {cell.lambda_kl:g}"]
    return ", ".join(words + ([] if cell.lambda_lsd == 1 else [f"λ3 = {cell.lambda_lsd:g}"]))


def write(
    out: pathlib.Path,
    plan: Plan,
    wanted: Sequence[tuple[str, Cell]],
    judge: str,
    command: str,
    target: pathlib.Path | None,
) -> pathlib.Path:
    """Writes `results.md` and its figures into the folder, and between the marks of a page; returns the last one."""
    made = document(out, plan, wanted, judge, command)
    return write_results(out, made, target, MARKS, "terms_*.png")
