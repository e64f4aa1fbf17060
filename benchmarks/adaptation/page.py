"""What was found as tables and figures, and their place between the marks of docs/stylegan_adaptation.md."""

from __future__ import annotations

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ldp_fast.runs.tables import markdown_table

from .. import machine
from ..experiment import write_results
from . import figures, runs
from .figures import SOURCE, TRUTH
from .measures import Judges
from .plan import Cell, Plan, Variant, name_of
from .summary import HIGHER, SHARES, Row, against, better

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "stylegan_adaptation.md"
MARKS = ("<!-- made by python -m benchmarks.adaptation -->", "<!-- end of what it made -->")
NOTHING = "Not measured yet."
HEAD = ["CLIP score", "R-Precision", "right", "FID", "all pairs", "identity kept", "view", "size", "grey", "seconds"]
Found = Mapping[str, Mapping[str, Row]]  # by way and target


def sheet_of(out: pathlib.Path, target: str, kind: str) -> pathlib.Path:
    """Where the record of a reference is, without its ending."""
    return out / "references" / f"{name_of(target)}--{kind.replace(' ', '-')}"


def read(out: pathlib.Path, cells: Sequence[Cell], judges: Judges | dict[str, Any]) -> dict[str, dict[str, Row]]:
    """What is there, by way and target; the source first, and true renders last."""
    ways = dict.fromkeys(cell.variant.name for cell in cells)
    rows: dict[str, dict[str, Row]] = {SOURCE: {}, **{way: {} for way in ways}, TRUTH: {}}
    for target in dict.fromkeys(cell.target for cell in cells):
        for kind in (SOURCE, TRUTH):
            record = runs.record_of(sheet_of(out, target, kind).with_suffix(".json"), judges)
            if record is not None:
                rows[kind][target] = Row([record["found"]])
        for way in ways:
            mine = [cell for cell in cells if (cell.target, cell.variant.name) == (target, way)]
            held = [runs.record_of(out / "cells" / f"{cell.name}.json", judges) for cell in mine]
            there = [record for record in held if record is not None]
            if there:
                seconds = [record["seconds"] for record in there]
                rows[way][target] = Row([record["found"] for record in there], seconds)
    return rows


def cells_of(row: Row) -> list[str]:
    """The columns of `HEAD`."""
    shares = {name: row.share(name) for name in SHARES}
    told = {
        name: "–"
        if not found["images"]
        else "{:.0f} % ({:.0f} to {:.0f})".format(100 * found["share"], *(100 * x for x in found["interval"]))
        for name, found in shares.items()
    }
    mean = {name: row.mean(name) for name in ("cosine", "view", "grey", "size", "fid", "pairs")}
    if any(found is None for found in mean.values()):
        return ["–"] * len(HEAD)
    value = {name: (found.value, found.half) for name, found in mean.items() if found is not None}
    return [
        f"{100 * value['cosine'][0]:.1f} ± {100 * value['cosine'][1]:.1f}",
        told["hit"],
        told["right"],
        f"{value['fid'][0]:.1f}",
        f"{value['pairs'][0]:.3f}",
        told["kept"],
        f"{100 * value['view'][0]:.0f} % ± {100 * value['view'][1]:.0f}",
        f"{value['size'][0]:.2f}",
        f"{value['grey'][0]:.3f}",
        f"{statistics.fmean(row.seconds):.0f}" if row.seconds else "",
    ]


def table(rows: Sequence[tuple[str, Row]]) -> str:
    """Rows of measures; `NOTHING` where there is none."""
    return markdown_table(["", *HEAD], [[name, *cells_of(row)] for name, row in rows]) if rows else NOTHING


def over_all(found: Found) -> list[tuple[str, Row]]:
    """A row a way over its targets, of ways that have all those which any has."""
    most = max((len(rows) for rows in found.values()), default=0)
    return [
        (way, Row([r for row in rows.values() for r in row.records], [s for row in rows.values() for s in row.seconds]))
        for way, rows in found.items()
        if rows and len(rows) == most
    ]


def beside(found: Found, one: str, other: str) -> str:
    """Two ways picture by picture, target by target, and in how many of them the first is the better."""
    both = [target for target in found.get(one, {}) if target in found.get(other, {})]
    if not both:
        return NOTHING
    lines: list[list[str]] = []
    counts = dict.fromkeys(HIGHER, (0, 0))
    for target in both:
        for mine, theirs in zip(found[one][target].records, found[other][target].records, strict=False):
            pair = against(mine, theirs)
            signs = {name: f"+{gained} −{lost}" for name, (gained, lost) in ((n, pair[n]) for n in SHARES)}
            cosine, view = pair["cosine"], pair["view"]
            lines.append(
                [
                    target,
                    _signed(100 * cosine.value, 2) + f" ± {100 * cosine.half:.2f}",
                    signs["hit"],
                    signs["right"],
                    _signed(pair["fid"], 1),
                    _signed(pair["pairs"], 3),
                    signs["kept"],
                    _signed(100 * view.value, 1) + f" ± {100 * view.half:.1f}",
                ]
            )
            for name, (wins, losses) in counts.items():
                won = better(mine, theirs, name)
                counts[name] = (wins + (won is True), losses + (won is False))
    order = ("cosine", "hit", "right", "fid", "pairs", "kept", "view")
    lines.append(["better – worse", *(f"{counts[name][0]} – {counts[name][1]}" for name in order)])
    return markdown_table([f"{one} against {other}", *HEAD[:7]], lines)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")


def strips(out: pathlib.Path, cells: Sequence[Cell]) -> list[tuple[str, pathlib.Path]]:
    """Rows of the large figure: the source, and of each target every way and the truth."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    rows = [(SOURCE, sheet_of(out, targets[0], SOURCE).with_suffix(".png"))] if targets else []
    for target in targets:
        rows.append(("", out))
        first = [cell for cell in cells if cell.target == target and cell.seed == cells[0].seed]
        named = [(cell.variant.name, out / "cells" / f"{cell.name}.png") for cell in first]
        named.append((TRUTH, sheet_of(out, target, TRUTH).with_suffix(".png")))
        label = "\n".join(_broken(target))
        rows += [(f"{label}\n{name}" if place == 0 else name, sheet) for place, (name, sheet) in enumerate(named)]
    return rows


def front(out: pathlib.Path, cells: Sequence[Cell]) -> list[tuple[str, pathlib.Path]]:
    """Rows of the small figure: the source, and each target by the first way."""
    targets = list(dict.fromkeys(cell.target for cell in cells))
    rows = [("source", sheet_of(out, targets[0], SOURCE).with_suffix(".png"))] if targets else []
    for target in targets:
        first = next(cell for cell in cells if cell.target == target)
        rows.append(("\n".join(_broken(target)), out / "cells" / f"{first.name}.png"))
    return rows


def _broken(words: str, most: int = 18) -> list[str]:
    lines = [""]
    for word in words.split():
        if lines[-1] and len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def document(
    out: pathlib.Path, plan: Plan, cells: Sequence[Cell], judges: Judges | dict[str, Any], command: str
) -> str:
    """What stands between the marks; the figures are written to `images` in the folder."""
    found, images = read(out, cells, judges), out / "images"
    key = judges.key() if isinstance(judges, Judges) else judges
    there = sum(len(row.seconds) for rows in found.values() for row in rows.values())
    about = machine.describe()
    facts = (
        f"Made by `{command}` on {about['cpu']}, {about['cores']} core{'s' * (about['cores'] != 1)}"
        f"{', ' + about['gpu'] if about['gpu'] else ''}: {there} of {len(cells)} adaptations of the generator "
        f"`{plan.weights}` by the model `{plan.networks}`, {plan.samples} pictures each of the same z's, without "
        f"truncation; R-Precision, CLIP score and FID by the CLIP of `{key['judge']}`, FID against {plan.views} "
        f"renders, all pairs by {key['lpips']}, `right` of the first {plan.judged}."
    )
    ways: list[Variant] = list(dict.fromkeys(cell.variant for cell in cells))
    told = [f"`{way.name}`: `ldp-fast adapt {' '.join(way.words)}`" for way in ways]
    targets = list(dict.fromkeys(cell.target for cell in cells))
    parts = [facts, "; ".join(told) + ".", "### All targets together", table(over_all(found))]
    drawn = (
        ("pictures", figures.pictures(strips(out, cells), images / "adaptation_pictures.png"),
         "The same z's: the source, and for each target every way of guidance above what a perfect adaptation shows"),
        ("plane", figures.plane(found, images / "adaptation_plane.png"),
         "Left: R-Precision over the share of kept identities; right: FID over the distance of all pairs"),
        ("front", figures.pictures(front(out, cells), images / "adaptation.png"), ""),
    )  # fmt: skip
    parts += [f"![{text}](images/adaptation_{name}.png)" for name, made, text in drawn if made and text]
    names = [way.name for way in ways]
    for other in names[1:]:
        parts += [f"### `{names[0]}` against `{other}`", beside(found, names[0], other)]
    for target in targets:
        rows = [(way, row[target]) for way, row in found.items() if target in row]
        parts += [f"### {target}", table(rows)]
    return "\n\n".join(parts)


def write(
    out: pathlib.Path,
    plan: Plan,
    cells: Sequence[Cell],
    judges: Judges | dict[str, Any],
    command: str,
    target: pathlib.Path | None,
) -> pathlib.Path:
    """Writes `results.md` and its figures into the folder, and between the marks of a page; returns the last one."""
    made = document(out, plan, cells, judges, command)
    return write_results(out, made, target, MARKS, "adaptation*.png")
