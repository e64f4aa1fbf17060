"""Ways of guidance held against each other: of the same targets and the same seeds, and what is left out is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ldp_fast.runs.tables import markdown_table

from .figures import SOURCE, TRUTH
from .summary import SHARES, Record, Row, against, averaged, better

HEAD = [
    "CLIP score",
    "R-Precision",
    "right",
    "FID",
    "all pairs",
    "one grey",
    "identity kept",
    "view",
    "size",
    "grey",
    "seconds",
]
NOTHING = "Not measured yet."
COMPARED = ("cosine", "hit", "right", "fid", "pairs", "solids", "kept", "view")  # the first columns, by their names
Found = Mapping[str, Mapping[str, Row]]  # by way and target
Pairs = Mapping[str, Mapping[int, tuple[Record, Record]]]  # by target and seed


def alike(found: Found) -> tuple[dict[str, dict[str, Row]], list[str]]:
    """What can stand in one table: of the first way that is there, its targets; of all ways, the seeds they share.

    Args:
        found: the ways in the order in which they were asked for, with source and true renders, which are of no seed.

    Returns:
        By way and target the records of these seeds alone; what that leaves out, in words.
    """
    ways = {way: rows for way, rows in found.items() if way not in (SOURCE, TRUTH)}
    taken: dict[str, dict[str, Row]] = {}
    left: list[str] = []
    targets: list[str] = []
    seeds: list[int] = []
    for way, rows in ways.items():
        lacking = [target for target in targets if target not in rows]
        mine = _seeds_of_all([rows[target] for target in targets or rows if target in rows])
        both = [seed for seed in seeds if seed in mine] if taken else mine
        if not rows:
            left.append(f"`{way}`, of which nothing is there")
        elif lacking:
            left.append(f"`{way}`, which lacks {', '.join(lacking)}")
        elif not mine:
            left.append(f"`{way}`, which has no seed of all targets")
        elif not both:
            left.append(f"`{way}`, which shares no seed with {', '.join(f'`{other}`' for other in taken)}")
        else:
            targets, seeds = targets or list(rows), both
            taken[way] = {target: rows[target] for target in targets}
    others = dict.fromkeys(target for rows in ways.values() for target in rows if taken and target not in targets)
    left += [f"{target}, which `{next(iter(taken))}` lacks" for target in others]
    for way, rows in taken.items():
        more = sorted({seed for row in rows.values() for seed in row.seeds if seed not in seeds})
        if more:
            left.append(f"{_seeds(more)} of `{way}`")
    shown = {way: rows for way in found if (rows := taken.get(way, found[way] if way not in ways else {}))}
    chosen = {
        way: {target: rows[target].of(seeds) for target in targets if target in rows} for way, rows in shown.items()
    }
    return {way: rows for way, rows in chosen.items() if rows}, left


def _seeds_of_all(rows: Sequence[Row]) -> list[int]:
    """The seeds that every one has, in the order of the first."""
    return [seed for seed in dict.fromkeys(rows[0].seeds) if all(seed in row.seeds for row in rows)] if rows else []


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def about(rows: Iterable[Row], left: Sequence[str]) -> str:
    """Which seeds rows are of, and what is left out; '' of the one and nothing."""
    seeds = list(dict.fromkeys(seed for row in rows for seed in row.seeds))
    parts = [f"Means over {_seeds(seeds)}."] if len(seeds) > 1 else []
    if left:
        parts = parts or [f"Of {_seeds(seeds)}."] if seeds else []
        parts.append(f"Left out: {'; '.join(left)}.")
    return " ".join(parts)


def over_all(found: Found) -> tuple[list[tuple[str, Row]], str]:
    """A row a way over the targets, of what is `alike`; and what is to be said of it."""
    chosen, left = alike(found)
    rows = [(way, _whole(rows.values())) for way, rows in chosen.items()]
    return rows, about([row for _, row in rows], left)


def of_target(found: Found, target: str) -> tuple[list[tuple[str, Row]], str]:
    """A row a way of one target, of what is `alike` there; and what is to be said of it."""
    chosen, left = alike({way: {target: rows[target]} for way, rows in found.items() if target in rows})
    rows = [(way, rows[target]) for way, rows in chosen.items()]
    return rows, about([row for _, row in rows], left)


def _whole(rows: Iterable[Row]) -> Row:
    """Several rows as one."""
    rows = list(rows)
    return Row(*([x for row in rows for x in getattr(row, name)] for name in ("records", "seconds", "seeds")))


def pairs_of(found: Found, one: str, other: str) -> Pairs:
    """The records of two ways, by target and seed, of those that both have."""
    pairs: dict[str, dict[int, tuple[Record, Record]]] = {}
    for target, row in found.get(one, {}).items():
        if target in found.get(other, {}):
            mine, theirs = row.by_seed(), found[other][target].by_seed()
            both = {seed: (x.records[0], theirs[seed].records[0]) for seed, x in mine.items() if seed in theirs}
            if both:
                pairs[target] = both
    return pairs


def _pooled(pairs: Iterable[tuple[Record, Record]]) -> tuple[Record, Record]:
    mine, theirs = zip(*pairs, strict=True)
    return averaged(mine), averaged(theirs)


def beside(found: Found, one: str, other: str) -> str:
    """Two ways picture by picture, target by target, over the seeds of both; in how many the first is the better."""
    pairs = pairs_of(found, one, other)
    if not pairs:
        return NOTHING
    differ = len({tuple(seeds) for seeds in pairs.values()}) > 1
    lines: list[list[str]] = []
    for target, seeds in pairs.items():
        pair = against(list(seeds.values()))
        signs = {name: f"+{_count(gained)} −{_count(lost)}" for name, (gained, lost) in ((n, pair[n]) for n in SHARES)}
        cosine, view = pair["cosine"], pair["view"]
        lines.append(
            [
                f"{target} ({_seeds(list(seeds))})" if differ else target,
                _signed(100 * cosine.value, 2) + f" ± {100 * cosine.half:.2f}",
                signs["hit"],
                signs["right"],
                _signed(pair["fid"], 1),
                _signed(pair["pairs"], 3),
                _signed(pair["solids"], 4),
                signs["kept"],
                _signed(100 * view.value, 1) + f" ± {100 * view.half:.1f}",
            ]
        )
    lines.append(["better – worse", *_wins(_pooled(seeds.values()) for seeds in pairs.values())])
    return markdown_table([f"{one} against {other}", *HEAD[: len(COMPARED)]], lines)


def said_beside(found: Found, one: str, other: str, samples: int) -> str:
    """What the numbers of `beside` are of, and what is left out; '' without any.

    Args:
        found: by way and target.
        one: the first way.
        other: the second.
        samples: z's of each cell.
    """
    pairs = pairs_of(found, one, other)
    if not pairs:
        return ""
    several = any(len(seeds) > 1 for seeds in pairs.values())
    same = len({tuple(seeds) for seeds in pairs.values()}) == 1
    seeds = _seeds(list(next(iter(pairs.values())))) if same else "the seeds behind each target"
    mean = f", each z's mean over {seeds} first" if several else f", of {seeds}"
    whole = ", the mean over seeds" if several else ""
    said = (
        f"Differences of the same z's. ±: over N = {samples} z's{mean}. "
        f"+a −b: a pictures of one seed are so here and not there, b the other way round{whole}. Last row: targets."
    )
    left = [f"`{way}` of {target}" for way in (one, other) for target in found.get(way, {}) if target not in pairs]
    for way in (one, other):
        here = found[way]
        more = sorted({seed for target, both in pairs.items() for seed in here[target].seeds if seed not in both})
        left += [f"{_seeds(more)} of `{way}`"] if more else []
    return said + (f" Left out: {'; '.join(left)}." if left else "")


def _count(pictures: float) -> str:
    """Of one seed; a mean over seeds need not be whole."""
    return f"{round(pictures, 1):g}"


def _wins(pairs: Iterable[tuple[Record, Record]]) -> list[str]:
    """In how many the first is the better, and in how many the other, by each of `COMPARED`."""
    pairs = list(pairs)
    won = [[better(mine, theirs, name) for mine, theirs in pairs] for name in COMPARED]
    return [f"{sum(x is True for x in each)} – {sum(x is False for x in each)}" for each in won]


def seeds_of(found: Found) -> str:
    """Means over seeds with their standard deviation, of the ways that have several; '' where none has."""
    lines = []
    several = {way: rows for way, rows in found.items() if any(len(row.by_seed()) > 1 for row in rows.values())}
    targets = list(dict.fromkeys(target for rows in several.values() for target in rows))
    # Each of its own seeds, which are told: a way that has one alone has no spread to be shown beside.
    parts = {
        way: (_seeds_of_all(list(rows.values())), rows) for way, rows in several.items() if len(rows) == len(targets)
    }
    whole = {way: _whole(row.of(seeds) for row in rows.values()) for way, (seeds, rows) in parts.items()}
    groups = {"all targets": whole} | {x: {way: rows[x] for way, rows in several.items() if x in rows} for x in targets}
    for target, rows in groups.items():
        for way, row in rows.items():
            if len(row.by_seed()) > 1:
                lines.append([target, way, ", ".join(map(str, row.by_seed())), *_spread(row)])
    return markdown_table(["", "", "seeds", *HEAD[:-1]], lines) if lines else ""


def _spread(row: Row) -> list[str]:
    """The columns of `HEAD` but the last, over seeds."""
    forms = {"cosine": (100, ".1f"), "hit": (100, ".0f"), "right": (100, ".0f"), "fid": (1, ".1f")}
    forms |= {
        "pairs": (1, ".3f"),
        "solids": (1, ".4f"),
        "kept": (100, ".0f"),
        "view": (100, ".0f"),
        "size": (1, ".2f"),
        "grey": (1, ".3f"),
    }
    cells = []
    for name, (times, form) in forms.items():
        mean, unit = row.over_seeds(name), " %" if name in (*SHARES, "view") else ""
        cells.append("–" if mean is None else f"{times * mean.value:{form}} ± {times * mean.half:{form}}{unit}")
    return cells


def seed_wins(found: Found, one: str, other: str) -> str:
    """In how many targets the first of two ways is the better, of each seed and of the means over seeds; '' of one."""
    pairs = pairs_of(found, one, other)
    seeds = list(dict.fromkeys(seed for both in pairs.values() for seed in both))
    if len(seeds) < 2:
        return ""
    lines = []
    for seed in seeds:
        mine = [both[seed] for both in pairs.values() if seed in both]
        lines.append([f"seed {seed}", str(len(mine)), *_wins(mine)])
    whole = [_pooled(both.values()) for both in pairs.values()]
    lines.append(["means over seeds", str(len(whole)), *_wins(whole)])
    return markdown_table([f"{one} better – worse than {other}", "targets", *HEAD[: len(COMPARED)]], lines)


def _signed(value: float, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−")
