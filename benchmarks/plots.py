"""The figures of docs/performance.md: bars of time and memory, and cost over size.

Each stands on a ground of its own, so that it reads on a light page and on a dark one, and holds nothing that changes
from one run of the command to the next.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .results import Results, Row, measured
from .table import LIMIT, digits, find, groups, limit_of, name_of, unit_of

INK, FAINT, GROUND = "#22272e", "#8a929c", "#fbfaf7"
OURS, THEIRS, BOUND = "#1f77b4", "#b9a48a", "#b5482f"
PARTS = ("#1f77b4", "#e08a3c", "#5f9e6e", "#9a8fb5")
SIZED = (
    ("naive", THEIRS, "o"),
    ("truncated, folded", "#7d6b54", "s"),
    ("ours, save", OURS, "o"),
    ("ours, recompute", "#5aa9e0", "^"),
    (LIMIT, BOUND, "x"),
)


STYLE = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "savefig.dpi": 130,
}


@contextlib.contextmanager
def drawn(file: Path, rows: int = 1, columns: int = 1, *, size: tuple[float, float]) -> Iterator[Any]:
    """Axes [rows, columns] of a figure in this page's style, which is written at the end.

    Without pyplot: neither the host's backend nor its settings are another one's afterwards.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size)
        yield figure.subplots(rows, columns, squeeze=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.tight_layout()
        # matplotlib's version would make two files of the same picture.
        figure.savefig(file, metadata={"Software": None})


def _bars(axes: Any, names: Sequence[str], values: Sequence[float], label: str, title: str) -> None:
    """Horizontal bars with their numbers; ours in another colour, the limit as what it is."""
    colours = [BOUND if n.startswith(LIMIT) else OURS if n.startswith("ours") else THEIRS for n in names]
    places = range(len(names))
    axes.barh(places, values, color=colours, height=0.66)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, " " + digits(value), va="center", ha="left", color=INK, fontsize=8)
    axes.set_xlim(0, 1.15 * max(values))
    axes.set_xlabel(label)
    axes.set_title(title, loc="left")


def bars(rows: Sequence[Row], title: str, file: Path) -> bool:
    """Time of a group's rows, with peak memory and share of the limit where they are known; False without a time."""
    timed = [row for row in rows if measured(row)]
    if not timed:
        return False
    seconds, unit = unit_of(timed)
    panels = [(f"time, {unit}", title, [(name_of(row), row["min_s"] / seconds) for row in timed])]
    weighed = [(name_of(row), row["extra"]["peak_bytes"] / 2**20) for row in timed if "peak_bytes" in row["extra"]]
    panels += [("peak memory growth, MB", "Peak memory", weighed)] if weighed else []
    limits = [(row, limit_of(row, timed)) for row in timed if not row["backend"].startswith(LIMIT)]
    known = [(name_of(row), 100 * limit["min_s"] / row["min_s"]) for row, limit in limits if limit is not None]
    panels += [("time of the bare convolutions over time, %", "Share of the limit", known)] if known else []
    with drawn(file, 1, len(panels), size=(2 + 4.2 * len(panels), 1.1 + 0.3 * len(timed))) as axes:
        for panel, (label, heading, values) in zip(axes[0], panels, strict=True):
            _bars(panel, [name for name, _ in values], [value for _, value in values], label, heading)
    return True


def over_latents(rows: Sequence[Row], device: str, file: Path) -> bool:
    """Cost of feature matching over the side of the latents, SD 1.5; False with fewer than two sizes."""
    members = [row for group, found in groups(rows).items() if group.startswith("decoder, SD 1.5") for row in found]
    members = [row for row in members if measured(row) and row["extra"]["device"] == device]
    sides = sorted({row["extra"]["side"] for row in members})
    if len(sides) < 2:
        return False
    with drawn(file, size=(7, 4)) as ((axes,),):
        for name, colour, marker in SIZED:
            points = sorted((row["extra"]["side"], row["min_s"]) for row in members if row["backend"] == name)
            if points:
                style = "--" if name == LIMIT else "-"
                label = f"{name} (the limit)" if name == LIMIT else name
                axes.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=label)
        times = [row["min_s"] for row in members if row["backend"] in dict.fromkeys(name for name, _, _ in SIZED)]
        _logarithmic(axes, sides, times, "side of the latents", "loss and latent gradients, s")
        axes.set_title("Feature matching over the latents' size, SD 1.5's decoder", loc="left")
    return True


def _logarithmic(axes: Any, places: Sequence[float], values: Sequence[float], x: str, y: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    ticks = round_numbers(min(values), max(values))
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_ylim(ticks[0], ticks[-1])
    axes.minorticks_off()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, color=FAINT, alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … from the last one below `low` to the first one above `high`."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    numbers = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    start = max(i for i, number in enumerate(numbers) if number <= low)
    end = min(i for i, number in enumerate(numbers) if number >= high)
    return numbers[start : end + 1]


def parts(found: Sequence[tuple[str, list[Row]]], file: Path) -> bool:
    """Where our step's time goes, a bar for each size; False where nothing was measured."""
    whole = [(label, rows) for label, rows in found if find(rows, "whole") is not None]
    if not whole:
        return False
    with drawn(file, size=(8, 1.2 + 0.42 * len(whole))) as ((axes,),):
        for place, (_, rows) in enumerate(whole):
            left = 0.0
            for (name, share), colour in zip(shares(rows).items(), PARTS, strict=True):
                axes.barh(place, 100 * share, left=left, color=colour, height=0.6, label=name if place == 0 else None)
                if share > 0.04:
                    middle = left + 50 * share
                    axes.text(
                        middle, place, f"{100 * share:.0f} %", ha="center", va="center", color="white", fontsize=8
                    )
                left += 100 * share
        axes.set_yticks(range(len(whole)), [label for label, _ in whole])
        axes.invert_yaxis()
        axes.set_xlabel("share of the step's time, %")
        axes.set_xlim(0, 100)
        axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return True


def shares(rows: Sequence[Row]) -> dict[str, float]:
    """The parts of a step as shares of the whole; parts that were timed alone may add up to more, `rest` is then 0."""
    whole = find(rows, "whole")
    if whole is None:
        return {}
    alone = {name: find(rows, name) for name in ("UNet", "decoder", "losses")}
    times = {name: row["min_s"] if row is not None else 0.0 for name, row in alone.items()}
    total = max(whole["min_s"], sum(times.values()))
    return {name: t / total for name, t in times.items()} | {"rest": 1 - sum(times.values()) / total}


def sweeps(rows: Sequence[Row], device: str, file: Path) -> bool:
    """Cost of the renderer over rays, samples and table size; False where none was measured."""
    panels: list[tuple[str, str, Callable[[Any], Any], str]] = [
        ("renderer step over rays", "rays", lambda n: n, "rays, whole step"),
        ("renderer step over samples", "samples", lambda n: n, "most samples of a ray, whole step"),
        ("field over T", "log2_table_size", lambda n: 2**n, "entries of a level, field's pass"),
    ]
    found = groups(rows)
    series = []
    for group, key, scale, label in panels:
        members = [row for row in found.get(f"sweep: {group}, {device}", ()) if measured(row)]
        if members:
            series.append((label, sorted((scale(row["extra"][key]), 1e3 * row["min_s"]) for row in members)))
    if not series:
        return False
    with drawn(file, 1, len(series), size=(3.6 * len(series), 3.2)) as axes:
        for panel, (label, points) in zip(axes[0], series, strict=True):
            panel.plot(*zip(*points, strict=True), "o-", color=OURS)
            places = [x for x, _ in points]
            _logarithmic(panel, places, [y for _, y in points], label, "ms")
            panel.set_xticks(places, [_short(x) for x in places], rotation=45)
    return True


def _short(number: float) -> str:
    """1024 as 1k, 2²⁰ as 1M."""
    for size, letter in ((2**20, "M"), (2**10, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def make_all(results: Results, folder: Path) -> dict[str, str]:
    """Makes what there are results for; what was made, by its name, as file names."""
    slug, rows = results["machine"]["slug"], results["rows"]
    device = "cuda" if results["machine"]["gpu"] else "cpu"
    of_group = groups(rows)
    made: dict[str, str] = {}

    def keep(name: str, draw: Callable[[Path], bool]) -> None:
        file = f"performance-{slug}-{name}.png"
        if draw(folder / file):
            made[name] = file

    for kind in ("decoder", "step"):
        largest = largest_group(rows, kind, device)
        if largest is not None:
            title = f"{'Feature matching' if kind == 'decoder' else 'Whole step'}, {largest.split(', ')[1]}"
            keep(kind, lambda file, g=largest, t=title: bars(of_group[g], t, file))  # type: ignore[misc]
    keep("size", lambda file: over_latents(rows, device, file))
    labelled = [(group.split(", ")[1], found) for group, found in of_group.items() if group.startswith("step by parts")]
    keep("parts", lambda file: parts([(label, found) for label, found in labelled], file))
    keep("renderer", lambda file: sweeps(rows, device, file))
    return made


def largest_group(rows: Sequence[Row], kind: str, device: str) -> str | None:
    """The group of SD 1.5 with the largest latents that were timed, else the embedded model's, else None."""
    best: tuple[tuple[bool, int], str] | None = None
    for group, members in groups(rows).items():
        if not group.startswith(f"{kind}, ") or not group.endswith(f", {device}") or not any(map(measured, members)):
            continue
        extra = members[0]["extra"]
        size = (extra["model"] == "SD 1.5", extra["side"])
        best = max(best or (size, group), (size, group))
    return None if best is None else best[1]
