"""What was found as tables and figures, and their place between the marks of docs/stylegan_adaptation.md."""

from __future__ import annotations

import pathlib
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ldp_fast.runs.tables import markdown_table

from .. import machine
from ..experiment import write_results
from . import figures, runs
from .figures import SOURCE, TRUTH
from .measures import Judges
from .plan import Cell, Plan, Variant, name_of
from .summary import SHARES, Record, Row, against, better, together

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "stylegan_adaptation.md"
MARKS = ("<!-- made by python -m benchmarks.adaptation -->", "<!-- end of what it made -->")
NOTHING = "Not measured yet."
HEAD = ["CLIP score", "R-Precision", "right", "FID", "all pairs", "identity kept", "view", "size", "grey", "seconds"]
COMPARED = ("cosine", "hit", "right", "fid", "pairs", "kept", "view")  # the first columns, by their names
Found = Mapping[str, Mapping[str, Row]]  # by way and target


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
    whole = [(way, _whole(rows.values())) for way, rows in found.items() if rows and len(rows) == most]
    return [(way, row) for way, row in whole if row.records]


def _whole(rows: Iterable[Row]) -> Row:
    """Several rows as one; only of seeds that all of them have."""
    rows = list(rows)
    parts = [row.by_seed() for row in rows]
    seeds = [seed for seed in parts[0] if all(seed in part for part in parts)]
    found = [(seed, record) for part in parts for seed in seeds for record in part[seed].records]
    seconds = [second for row in rows for second in row.seconds]
    return Row([record for _, record in found], seconds, [seed for seed, _ in found])


def _pairs(found: Found, one: str, other: str) -> dict[str, dict[int, tuple[Record, Record]]]:
    """The records of two ways, by target and seed, of those that both have."""
    pairs: dict[str, dict[int, tuple[Record, Record]]] = {}
    for target, row in found.get(one, {}).items():
        if target in found.get(other, {}):
            mine, theirs = row.by_seed(), found[other][target].by_seed()
            both = {seed: (together(x.records), together(theirs[seed].records)) for seed, x in mine.items()
                    if seed in theirs}  # fmt: skip
            if both:
                pairs[target] = both
    return pairs


def _pooled(pairs: Iterable[tuple[Record, Record]]) -> tuple[Record, Record]:
    mine, theirs = zip(*pairs, strict=True)
    return together(mine), together(theirs)


def beside(found: Found, one: str, other: str) -> str:
    """Two ways picture by picture, target by target, over the seeds of both; in how many the first is the better."""
    pairs = {target: _pooled(seeds.values()) for target, seeds in _pairs(found, one, other).items()}
    if not pairs:
        return NOTHING
    lines: list[list[str]] = []
    for target, (mine, theirs) in pairs.items():
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
    lines.append(["better – worse", *_wins(pairs.values())])
    return markdown_table([f"{one} against {other}", *HEAD[:7]], lines)


def _wins(pairs: Iterable[tuple[Record, Record]]) -> list[str]:
    """In how many the first is the better, and in how many the other, by each of `COMPARED`."""
    pairs = list(pairs)
    won = [[better(mine, theirs, name) for mine, theirs in pairs] for name in COMPARED]
    return [f"{sum(x is True for x in each)} – {sum(x is False for x in each)}" for each in won]


def seeds_of(found: Found) -> str:
    """Means over seeds with their standard deviation, of the ways that have several; '' where none has."""
    lines = []
    several = {way: rows for way, rows in found.items() if any(len(row.by_seed()) > 1 for row in rows.values())}
    whole = {way: row for way, row in over_all(found) if way in several}
    targets = list(dict.fromkeys(target for rows in several.values() for target in rows))
    groups = {"all targets": whole} | {x: {way: rows[x] for way, rows in several.items() if x in rows} for x in targets}
    for target, rows in groups.items():
        for way, row in rows.items():
            if len(row.by_seed()) > 1:
                lines.append([target, way, ", ".join(map(str, row.by_seed())), *_spread(row)])
    return markdown_table(["", "", "seeds", *HEAD[:-1]], lines) if lines else ""


def _spread(row: Row) -> list[str]:
    """The columns of `HEAD` but the last, over seeds."""
    forms = {"cosine": (100, ".1f"), "hit": (100, ".0f"), "right": (100, ".0f"), "fid": (1, ".1f"), "pairs": (1, ".3f")}
    forms |= {"kept": (100, ".0f"), "view": (100, ".0f"), "size": (1, ".2f"), "grey": (1, ".3f")}
    cells = []
    for name, (times, form) in forms.items():
        mean, unit = row.over_seeds(name), " %" if name in (*SHARES, "view") else ""
        cells.append("–" if mean is None else f"{times * mean.value:{form}} ± {times * mean.half:{form}}{unit}")
    return cells


def seed_wins(found: Found, one: str, other: str) -> str:
    """In how many targets the first of two ways is the better, of each seed and of the means over seeds; '' of one."""
    pairs = _pairs(found, one, other)
    seeds = list(dict.fromkeys(seed for both in pairs.values() for seed in both))
    if len(seeds) < 2:
        return ""
    lines = []
    for seed in seeds:
        mine = [both[seed] for both in pairs.values() if seed in both]
        lines.append([f"seed {seed}", str(len(mine)), *_wins(mine)])
    whole = [_pooled(both.values()) for both in pairs.values()]
    lines.append(["means over seeds", str(len(whole)), *_wins(whole)])
    return markdown_table([f"{one} better – worse than {other}", "targets", *HEAD[:7]], lines)


def settings_table(found: Found, others: Found) -> str:
    """The targets of other settings: the guidances with their defaults, the settings, and true renders."""
    targets = list(
        dict.fromkeys(target for way, rows in others.items() if way not in (SOURCE, TRUTH) for target in rows)
    )
    lines = []
    for target in targets:
        mine = {way: rows[target] for way, rows in found.items() if target in rows and way not in (SOURCE, TRUTH)}
        more = {way: rows[target] for way, rows in others.items() if target in rows}
        truth = {TRUTH: more.pop(TRUTH)} if TRUTH in more else {}
        source = {SOURCE: more.pop(SOURCE)} if SOURCE in more else {}
        lines += [(f"{target}: {way}", row) for way, row in {**source, **mine, **more, **truth}.items()]
    return table(lines)


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
    out: pathlib.Path, plan: Plan, cells: Sequence[Cell], judges: Judges | dict[str, Any], command: str, code: str
) -> str:
    """What stands between the marks; the figures are written to `images` in the folder."""
    every, images = cells, out / "images"
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
        f"{plan.views} renders, all pairs by {key['lpips']}, `right` of the first {plan.judged}."
    )
    old = sum(runs.outdated(file_of(out, cell), code) for cell in every)
    if old:
        facts += f" **Left out: {old} that other code has made**; the same command makes them anew."
    ways: list[Variant] = list(dict.fromkeys(cell.variant for cell in cells))
    told = "; ".join(f"`{way.name}`: {_typed(way)}" for way in ways)
    targets = list(dict.fromkeys(cell.target for cell in cells))
    parts = [facts]
    if cells:
        parts += [f"{told}.", "### All targets together", table(over_all(found))]
    made = [cell for cell in cells if runs.record_of(file_of(out, cell), key, code) is not None]
    drawn = (
        ("pictures", figures.pictures(strips(out, made), images / "adaptation_pictures.png"),
         "The same z's: the source, and for each target every way of guidance above what a perfect adaptation shows"),
        ("plane", figures.plane(found, images / "adaptation_plane.png"),
         "Left: R-Precision over the share of kept identities; right: FID over the distance of all pairs"),
        ("front", figures.pictures(front(out, made), images / "adaptation.png"), ""),
    )  # fmt: skip
    parts += [f"![{text}](images/adaptation_{name}.png)" for name, there, text in drawn if there and text]
    names = [way.name for way in ways]
    for other in names[1:]:
        parts += [f"### `{names[0]}` against `{other}`", beside(found, names[0], other)]
    spread = seeds_of(found)
    if spread:
        said = "Mean ± standard deviation over the seeds of the runs, of what has several."
        parts += ["### Between seeds", said, *(x for other in names[1:] if (x := seed_wins(found, names[0], other)))]
        parts.append(spread)
    for target in targets:
        rows = [(way, row[target]) for way, row in found.items() if target in row]
        parts += [f"### {target}", table(rows)]
    if settings:
        more = "; ".join(f"`{way.name}`: {_typed(way)}" for way in dict.fromkeys(cell.variant for cell in settings))
        parts += ["### Other settings", f"{more}.", settings_table(found, others)]
    return "\n\n".join(parts)


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
