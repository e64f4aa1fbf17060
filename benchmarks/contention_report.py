"""The section on busy neighbours of docs/performance.md, and its numbers: from rows of bench_contention.py."""

from __future__ import annotations

from collections.abc import Sequence

from .contention import ALONE, NEIGHBOURS, TWO
from .results import Results, Row, measured
from .table import digits

FILE = "bench_contention.py"
TITLES = {"step": "the gradient of one sample", "text-to-3d": "a step of text-to-3D"}

INTRODUCTION = """\
## Beside other work

A step of the embedded model, alone and beside busy neighbours (`benchmarks/bench_contention.py`): `ours` as a command
of `ldp-fast` has torch's threads wait for each other, `torch's defaults` as a program that imports this package without
a choice of its own, and with `OMP_WAIT_POLICY=passive`, as usually advised. `naive` has torch's defaults. All ways take
turns. Medians in milliseconds, because what a neighbour takes varies; in brackets the time over that of the same way
alone. Over torch's defaults: of the turns alone, what a way took over ours with torch's defaults in the same round; the
median, and the quartiles. [contention.md](contention.md) says what is chosen and why.
"""


def _row(rows: Sequence[Row], step: str, where: str, way: str) -> Row | None:
    for row in rows:
        extra = row["extra"]
        if row["file"] == FILE and measured(row) and (extra["step"], extra["where"]) == (step, where):
            if row["backend"] == way:
                return row
    return None


def median(rows: Sequence[Row], step: str, where: str, way: str) -> float | None:
    """Seconds of a way beside neighbours; None if there are none."""
    row = _row(rows, step, where, way)
    return None if row is None else row["median_s"]


def over_defaults(rows: Sequence[Row], step: str, way: str) -> list[float] | None:
    """A way alone over ours with torch's defaults, turn by turn: first quartile, median, third; None without."""
    row = _row(rows, step, ALONE, way)
    return None if row is None else row["extra"].get("over_defaults")


def beside_two(rows: list[Row], step: str) -> float | None:
    """Ours beside two busy loops over ours alone."""
    found = [median(rows, step, where, "ours") for where in (TWO, ALONE)]
    return None if found[0] is None or found[1] is None else found[0] / found[1]


def quiet(rows: list[Row], step: str) -> float | None:
    """Ours alone over ours alone with torch's defaults, the median turn."""
    found = over_defaults(rows, step, "ours")
    return None if found is None else found[1]


def section(machines: Sequence[tuple[Results, str]]) -> str:
    """Each machine's table of each step; with a machine comes the sentence that names it."""
    lines: list[str] = []
    for found, name in machines:
        rows = [row for row in found["rows"] if row["file"] == FILE and measured(row)]
        if rows:
            lines += [name, ""]
        for step in dict.fromkeys(row["extra"]["step"] for row in rows):
            lines += [*_table(rows, step), ""]
    return "\n".join(lines) if lines else "Open: not in the results of any machine.\n"


def _table(rows: Sequence[Row], step: str) -> list[str]:
    own = [row for row in rows if row["extra"]["step"] == step]
    places = [where for where in NEIGHBOURS if any(row["extra"]["where"] == where for row in own)]
    heads = [TITLES.get(step, step), *places, "over torch's defaults"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(places) + 1) + "|"]
    for way in dict.fromkeys(row["backend"] for row in own):
        alone = median(own, step, ALONE, way)
        cells = []
        for where in places:
            seconds = median(own, step, where, way)
            over = f" ({digits(seconds / alone)}×)" if seconds and alone and where != ALONE else ""
            cells.append("" if seconds is None else f"{digits(1e3 * seconds)}{over}")
        turns = over_defaults(own, step, way)
        cells.append("" if turns is None else f"{turns[1]:.3f} ({turns[0]:.3f} – {turns[2]:.3f})")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return lines
