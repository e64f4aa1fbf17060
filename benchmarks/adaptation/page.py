"""What was found as tables and figures, and their place between the marks of docs/stylegan_adaptation.md."""

from __future__ import annotations

import pathlib
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from ldp_fast.apps.adapt.configuration import BY_Z
from ldp_fast.errors import UsageError
from ldp_fast.runs.configuration import read_yaml
from ldp_fast.runs.tables import markdown_table

from .. import machine
from ..experiment import write_results
from . import figures, runs
from .compared import HEAD, NOTHING, Found, beside, of_target, over_all, said_beside, seed_wins, seeds_of
from .figures import SOURCE, TRUTH
from .measures import Judges
from .plan import Cell, Plan, Variant, name_of
from .summary import SHARES, Row

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "stylegan_adaptation.md"
MARKS = ("<!-- made by python -m benchmarks.adaptation -->", "<!-- end of what it made -->")


def sheet_of(out: pathlib.Path, target: str, kind: str) -> pathlib.Path:
    """Where the record of a reference is, without its ending."""
    return out / "references" / f"{name_of(target)}--{kind.replace(' ', '-')}"


def read(
    out: pathlib.Path, cells: Sequence[Cell], judges: Judges | dict[str, Any], code: str
) -> dict[str, dict[str, Row]]:
    """What is there, by way and target; the source first, and true renders last. Not what other code has made."""
    ways = dict.fromkeys(cell.variant.name for cell in cells)
    rows: dict[str, dict[str, Row]] = {SOURCE: {}, **{way: {} for way in ways}, TRUTH: {}}
    for target in dict.fromkeys(cell.target for cell in cells):
        for kind in (SOURCE, TRUTH):
            record = runs.record_of(sheet_of(out, target, kind).with_suffix(".json"), judges)
            if record is not None:
                rows[kind][target] = Row([record["found"]])
        for way in ways:
            mine = [cell for cell in cells if (cell.target, cell.variant.name) == (target, way)]
            held = [(cell.seed, runs.record_of(file_of(out, cell), judges, code)) for cell in mine]
            there = [(seed, record) for seed, record in held if record is not None]
            if there:
                seconds = [record["seconds"] for _, record in there]
                rows[way][target] = Row([record["found"] for _, record in there], seconds, [seed for seed, _ in there])
    return rows


def file_of(out: pathlib.Path, cell: Cell) -> pathlib.Path:
    """Where the record of a cell is."""
    return out / "cells" / f"{cell.name}.json"


def cells_of(row: Row) -> list[str]:
    """The columns of `HEAD`."""
    shares = {name: row.share(name) for name in SHARES}
    told = {
        name: "–"
        if not found["images"]
        else "{:.0f} % ({:.0f} to {:.0f})".format(100 * found["share"], *(100 * x for x in found["interval"]))
        for name, found in shares.items()
    }
    mean = {name: row.mean(name) for name in ("cosine", "view", "grey", "size", "fid", "pairs", "solids")}
    if any(found is None for found in mean.values()):
        return ["–"] * len(HEAD)
    value = {name: (found.value, found.half) for name, found in mean.items() if found is not None}
    return [
        f"{100 * value['cosine'][0]:.1f} ± {100 * value['cosine'][1]:.1f}",
        told["hit"],
        told["right"],
        f"{value['fid'][0]:.1f}",
        f"{value['pairs'][0]:.3f}",
        f"{value['solids'][0]:.4f}",
        told["kept"],
        f"{100 * value['view'][0]:.0f} % ± {100 * value['view'][1]:.0f}",
        f"{value['size'][0]:.2f}",
        f"{value['grey'][0]:.3f}",
        f"{statistics.fmean(row.seconds):.0f}" if row.seconds else "",
    ]


def table(rows: Sequence[tuple[str, Row]]) -> str:
    """Rows of measures; `NOTHING` where there is none."""
    return markdown_table(["", *HEAD], [[name, *cells_of(row)] for name, row in rows]) if rows else NOTHING


def settings_table(found: Found, others: Found) -> tuple[str, list[str]]:
    """The targets of other settings: the guidances with their defaults, the settings, and true renders.

    Returns:
        The table, and what is to be said of its targets.
    """
    targets = list(
        dict.fromkeys(target for way, rows in others.items() if way not in (SOURCE, TRUTH) for target in rows)
    )
    ways = {SOURCE: others.get(SOURCE, {}), **{way: rows for way, rows in found.items() if way not in (SOURCE, TRUTH)}}
    ways |= {way: rows for way, rows in others.items() if way != SOURCE}
    lines, told = [], []
    for target in targets:
        rows, said = of_target(ways, target)
        lines += [(f"{target}: {way}", row) for way, row in rows]
        told += [f"{target}: {said}"] if said else []
    return table(lines), told


Strips = tuple[list[tuple[str, pathlib.Path]], list[str]]


def seed_of(cells: Sequence[Cell], made: Sequence[Cell]) -> int:
    """The seed whose pictures are shown, one of all: that which lacks the fewest of the cells; of several the first."""
    seeds = dict.fromkeys(cell.seed for cell in cells)
    return max(seeds, key=lambda seed: sum(cell.seed == seed for cell in made))


def strips(out: pathlib.Path, cells: Sequence[Cell], made: Sequence[Cell]) -> Strips:
    """The large figure: the source, and of each target every way, all of one seed, and the truth.

    Args:
        out: the folder.
        cells: that are asked for, in their order.
        made: those of them that are there.

    Returns:
        Its rows, and what is left out, in words.
    """
    if not made:
        return [], []
    seed = seed_of(cells, made)
    ways = dict.fromkeys(cell.variant for cell in cells)
    rows, left = list[tuple[str, pathlib.Path]](), list[str]()
    for target in dict.fromkeys(cell.target for cell in cells):
        asked = [Cell(target, way, seed) for way in ways]
        shown = [cell for cell in asked if cell in made]
        left += [f"`{cell.variant.name}` of {target}" for cell in asked if cell not in made]
        if not shown:
            continue
        rows += [] if rows else [(SOURCE, sheet_of(out, target, SOURCE).with_suffix(".png"))]
        rows.append(("", out))
        named = [(cell.variant.name, file_of(out, cell).with_suffix(".png")) for cell in shown]
        named.append((TRUTH, sheet_of(out, target, TRUTH).with_suffix(".png")))
        label = "\n".join(_broken(target))
        rows += [(f"{label}\n{name}" if place == 0 else name, sheet) for place, (name, sheet) in enumerate(named)]
    return rows, left


def front(out: pathlib.Path, cells: Sequence[Cell], made: Sequence[Cell]) -> Strips:
    """The small figure: the source, and each target by the first way that was asked for, of one seed; see `strips`."""
    mine = [cell for cell in cells if cell.variant == cells[0].variant]
    there = [cell for cell in made if cell in mine]
    if not there:
        return [], []
    seed = seed_of(mine, there)
    asked = [Cell(target, mine[0].variant, seed) for target in dict.fromkeys(cell.target for cell in mine)]
    shown = [cell for cell in asked if cell in there]
    rows = [(SOURCE, sheet_of(out, shown[0].target, SOURCE).with_suffix(".png"))]
    rows += [("\n".join(_broken(cell.target)), file_of(out, cell).with_suffix(".png")) for cell in shown]
    return rows, [cell.target for cell in asked if cell not in shown]


def _broken(words: str, most: int = 18) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def document(
    out: pathlib.Path, plan: Plan, cells: Sequence[Cell], judges: Judges | dict[str, Any], command: str, code: str
) -> str:
    """What stands between the marks; the figures are written to `images` in the folder."""
    every = cells
    cells, settings = ([cell for cell in every if cell.variant.setting == kind] for kind in (False, True))
    found, others = read(out, cells, judges, code), read(out, settings, judges, code)
    key = judges.key() if isinstance(judges, Judges) else judges
    done = sum(len(row.seconds) for part in (found, others) for rows in part.values() for row in rows.values())
    about = machine.describe()
    facts = (
        f"Made by `{command}` on {about['cpu']}, {about['cores']} core{'s' * (about['cores'] != 1)}"
        f"{', ' + about['gpu'] if about['gpu'] else ''}: {done} of {len(every)} adaptations of the generator "
        f"`{plan.weights}` by the model `{plan.networks}` and the code `{code}`, {plan.samples} pictures each of the "
        f"same z's, without truncation; R-Precision, CLIP score and FID by the CLIP of `{key['judge']}`, FID against "
        f"{plan.views} renders, all pairs by {key['lpips']}, `right` of the first {plan.judged}. ± and brackets are "
        f"intervals of 95 % over N = {plan.samples} z's (`right`: N = {plan.judged}); where a row is of several seeds "
        "or targets, the pictures of a z are averaged first."
    )
    old = runs.left_out((file_of(out, cell) for cell in every), key, code)
    if old:
        facts += f" **Left out: {old}**; the same command makes them anew."
    made = [cell for cell in every if runs.record_of(file_of(out, cell), key, code) is not None]
    parts = [facts, *_if_any(told_views(out, made))]
    names = [way.name for way in dict.fromkeys(cell.variant for cell in cells)]
    if cells:
        parts += [f"{_asked(cells)}.", *_all_together(found, images_of(out, found, cells, made))]
    for other in names[1:]:
        said = _if_any(said_beside(found, names[0], other, plan.samples))
        parts += [f"### `{names[0]}` against `{other}`", *said, beside(found, names[0], other)]
    spread = seeds_of(found)
    if spread:
        said = ["Mean ± standard deviation over the seeds of the runs, of what has several."]
        parts += ["### Between seeds", *said, *(x for other in names[1:] if (x := seed_wins(found, names[0], other)))]
        parts.append(spread)
    for target in dict.fromkeys(cell.target for cell in cells):
        rows, more = of_target(found, target)
        parts += [f"### {target}", *_if_any(more), table(rows)]
    if settings:
        shown, told = settings_table(found, others)
        parts += ["### Other settings", f"{_asked(settings)}.", *told, shown]
    return "\n\n".join(parts)


def _all_together(found: Found, pictures: list[str]) -> list[str]:
    rows, said = over_all(found)
    return ["### All targets together", *_if_any(said), table(rows), *pictures]


def images_of(out: pathlib.Path, found: Found, cells: Sequence[Cell], made: Sequence[Cell]) -> list[str]:
    """Draws the figures; their places in the page, and what they leave out. One that is not drawn goes.

    Args:
        out: the folder.
        found: by way and target.
        cells: the guidances' cells that are asked for.
        made: cells that are there.
    """
    images, mine = out / "images", [cell for cell in cells if cell in made]
    (rows, left), (few, missing) = strips(out, cells, mine), front(out, cells, mine)
    targets = dict.fromkeys(target for shown in found.values() for target in shown)
    each = {target: dict(of_target(found, target)[0]) for target in targets}
    points = {way: {target: each[target][way] for target in targets if way in each[target]} for way in found}
    drawn: tuple[tuple[str, bool, list[str], str], ...] = (
        ("pictures", figures.pictures(rows, images / "adaptation_pictures.png"), left,
         "The same z's: the source, and for each target every way of guidance above what a perfect adaptation shows"),
        ("plane", figures.plane(points, images / "adaptation_plane.png"), [],
         "Left: R-Precision over the share of kept identities; right: FID over the distance of all pairs"),
        ("front", figures.pictures(few, images / "adaptation.png"), missing, ""),
    )  # fmt: skip
    parts = []
    for name, there, lacking, text in drawn:
        file = f"adaptation_{name}.png" if text else "adaptation.png"
        if not there:
            (images / file).unlink(missing_ok=True)
            continue
        parts += [f"![{text}](images/{file})"] if text else []
        parts += [f"Left out of `{file}`, for it is not there: {'; '.join(lacking)}."] if lacking else []
    return parts


def told_views(out: pathlib.Path, made: Sequence[Cell]) -> str:
    """Which ways are told each picture's view in the prompt, as their runs' configurations have it; '' of none."""
    ways: dict[str, list[bool]] = {}
    for cell in made:
        try:
            settings = read_yaml(runs.folder_of(out, cell) / "config.yaml")
        except UsageError:
            continue
        ways.setdefault(cell.variant.name, []).append(settings.get("view_prompts") == BY_Z)
    told = [f"`{way}`" for way, runs_of in ways.items() if all(runs_of)]
    told += [f"`{way}` (in {sum(x)} of {len(x)} runs)" for way, x in ways.items() if any(x) and not all(x)]
    others = [f"`{way}`" for way, runs_of in ways.items() if not any(runs_of)]
    if not told:
        return f"No prompt names the view that a z shows: {', '.join(others)}." if others else ""
    rest = f"; not that of {', '.join(others)}" if others else ""
    return f"The prompt of {', '.join(told)} names the view that each z shows (`--view-prompts by-z`){rest}."


def _asked(cells: Sequence[Cell]) -> str:
    return "; ".join(f"`{way.name}`: {_typed(way)}" for way in dict.fromkeys(cell.variant for cell in cells))


def _if_any(text: str) -> list[str]:
    return [text] if text else []


def _typed(way: Variant) -> str:
    return f"`ldp-fast adapt {shlex.join(way.words)}`"


def write(
    out: pathlib.Path,
    plan: Plan,
    cells: Sequence[Cell],
    judges: Judges | dict[str, Any],
    command: str,
    target: pathlib.Path | None,
    code: str,
) -> pathlib.Path:
    """Writes `results.md` and its figures into the folder, and between the marks of a page; returns the last one."""
    made = document(out, plan, cells, judges, command, code)
    return write_results(out, made, target, MARKS, "adaptation*.png")
