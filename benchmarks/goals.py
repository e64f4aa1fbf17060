"""What was to be reached, and how far it is: from the rows of a machine, or open. Nothing is extrapolated.

The numbers are ratios within one run; `table` is printed by `make bench` and stands in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from .contention_report import beside_two, quiet
from .results import Results, Row, measured
from .table import device_seconds, digits, find, groups

GPU = "H200"
DECODER = "decoder, SD 1.5 32x32, cpu"
STEP = "step, SD 1.5 64x64, cuda"
AUTOCAST, BFLOAT16 = "naive, autocast bfloat16", "ours, bfloat16"
RENDERER = "renderer step, 64×64 rays, cuda"


def _group(rows: Iterable[Row], name: str) -> list[Row]:
    return groups(rows).get(name, [])


def _ratio(rows: list[Row], group: str, above: str, below: str, key: str = "min_s") -> float | None:
    members = _group(rows, group)
    found = [find(members, name) for name in (above, below)]
    if found[0] is None or found[1] is None:
        return None
    top, bottom = (row.get(key, row["extra"].get(key)) for row in (found[0], found[1]))
    return top / bottom if top is not None and bottom else None


def fastest_of_ours(rows: Iterable[Row]) -> Row | None:
    """The fastest measured row whose backend is ours."""
    ours = [row for row in rows if measured(row) and row["backend"].startswith("ours")]
    return min(ours, key=lambda row: row["min_s"], default=None)


def _step(against: str, key: str = "min_s") -> Callable[[list[Row]], float | None]:
    """Of the fastest of our ways: a baseline's time over its, or its memory over the baseline's."""

    def value(rows: list[Row]) -> float | None:
        ours = fastest_of_ours(_group(rows, STEP))
        if ours is None:
            return None
        pair = (against, ours["backend"]) if key == "min_s" else (ours["backend"], against)
        return _ratio(rows, STEP, *pair, key)

    return value


def bandwidth_share(rows: list[Row]) -> float | None:
    """Bytes a second of feature matching over those of a copy, bfloat16, one sample of 64×64."""
    members = _group(rows, "feature_matching SD 1.5, 64x64, batch 1 torch.bfloat16")
    ours, copy = find(members, "ldp_fast"), find(members, "copy")
    if ours is None or copy is None:
        return None
    seconds = [device_seconds(row) for row in (ours, copy)]
    if seconds[0] is None or seconds[1] is None:
        return None
    return ours["extra"]["least_bytes"] / seconds[0] / (copy["extra"]["least_bytes"] / seconds[1])


def scatter_share(rows: list[Row]) -> float | None:
    """Reductions a second of the table's gradient over the rate that the microbenchmark reaches on 64 MB."""
    ours = find(_group(rows, "hash_grid by_table rays step cuda"), "ours")
    rate = find(_group(rows, "rates of the GPU's memory"), "scatter, 64 MB")
    seconds = None if ours is None else device_seconds(ours)
    if ours is None or rate is None or seconds is None:
        return None
    return ours["extra"]["corners"] / seconds / 1e9 / rate["extra"]["per_second"]


def captured_milliseconds(rows: list[Row]) -> float | None:
    """Of the renderer's step as one graph."""
    row = find(_group(rows, RENDERER), "ours, captured")
    seconds = None if row is None else device_seconds(row)
    return None if seconds is None else 1e3 * seconds


def determinism(rows: list[Row]) -> float | None:
    """Time of the field's pass with deterministic sums over the time without."""
    members = _group(rows, "field, forward and backward, deterministic or not, cuda")
    times = {row["extra"]["deterministic"]: device_seconds(row) for row in members if measured(row)}
    with_it, without = times.get(True), times.get(False)
    return None if with_it is None or without is None else with_it / without


def host_cost(place: str, feature_matching: bool) -> Callable[[list[Row]], float | None]:
    """Of the functions of `ldp_fast.losses`, or of feature matching alone: the worst of ours over naive."""

    def value(rows: list[Row]) -> float | None:
        named = [group for group in groups(rows) if group.startswith("host cost, ") and group.endswith(f", {place}")]
        of = [group for group in named if ("feature_matching" in group) is feature_matching]
        ratios = [_ratio(rows, group, "ours", "naive") for group in of]
        return max((ratio for ratio in ratios if ratio is not None), default=None)

    return value


@dataclass(frozen=True)
class Goal:
    """One of them.

    Attributes:
        what: what is measured.
        where: `cpu` (two cores) or `gpu`.
        value: the number from the rows of a machine, or None.
        bound: `at least` or `at most`, and the number; None where nothing was promised.
        unit: after the number.
        capability: what torch calls the vectors of the processors that it is about (`AVX2`); empty for all.
    """

    what: str
    where: Literal["cpu", "gpu"]
    value: Callable[[list[Row]], float | None]
    bound: tuple[Literal["≥", "≤"], float] | None
    unit: str = "×"
    capability: str = ""

    def shown(self, value: float) -> str:
        """A number with its unit."""
        return f"{100 * value:.0f} %" if self.unit == "%" else f"{digits(value)} {self.unit}".strip()

    @property
    def target(self) -> str:
        """The bound in words."""
        return "–" if self.bound is None else f"{self.bound[0]} {self.shown(self.bound[1])}"

    def verdict(self, value: float) -> str:
        """Reached or not."""
        if self.bound is None:
            return ""
        sign, number = self.bound
        return "reached" if (value >= number if sign == "≥" else value <= number) else "**not reached**"


def _in_bfloat16(what: str, side: int) -> Goal:
    """On a CPU with instructions for it, against autocast."""
    group, named = (
        (f"decoder, SD 1.5 {side}x{side}, cpu", "feature matching, SD 1.5's decoder")
        if what == "decoder"
        else (f"step, SD 1.5 {side}x{side}, cpu", "whole step, SD 1.5")
    )
    return Goal(
        f"{named}, {side}×{side} latents, bfloat16: ours over naive under autocast",
        "cpu",
        lambda rows: _ratio(rows, group, BFLOAT16, AUTOCAST),
        ("≤", 0.8),
    )


_DECODER = "feature matching, SD 1.5's decoder, 32×32 latents, float32"
_STEP = "whole step, SD 1.5, 64×64 latents, bfloat16"
_CONTENTION = {"step": "gradient of the embedded model", "text-to-3d": "step of text-to-3D, embedded model"}
GOALS = (
    Goal(
        f"{_DECODER}: naive time over ours (`save`)",
        "cpu",
        lambda rows: _ratio(rows, DECODER, "naive", "ours, save"),
        ("≥", 2.0),
    ),
    Goal(
        f"{_DECODER}, AVX2 without AVX-512: naive time over ours (`save`)",
        "cpu",
        lambda rows: _ratio(rows, DECODER, "naive", "ours, save"),
        ("≥", 2.8),
        capability="AVX2",
    ),
    Goal(
        f"{_DECODER}: peak memory growth, ours (`save`) over naive",
        "cpu",
        lambda rows: _ratio(rows, DECODER, "ours, save", "naive", "peak_bytes"),
        ("≤", 0.45),
    ),
    Goal(
        f"{_DECODER}: peak memory growth, ours (`recompute`) over naive",
        "cpu",
        lambda rows: _ratio(rows, DECODER, "ours, recompute", "naive", "peak_bytes"),
        ("≤", 0.3),
    ),
    *(
        Goal(f"{what}: beside two busy loops over alone", "cpu", partial(beside_two, step=step), ("≤", 3.5))
        for step, what in _CONTENTION.items()
    ),
    *(
        Goal(f"{what}, alone: time over that with torch's defaults", "cpu", partial(quiet, step=step), ("≤", 1.03))
        for step, what in _CONTENTION.items()
    ),
    *(_in_bfloat16(what, side) for what in ("decoder", "step") for side in (16, 32)),
    Goal(f"{_STEP}: naive eager time over the fastest of ours", "gpu", _step("naive"), ("≥", 2.5)),
    Goal(f"{_STEP}: time of its torch.compile over ours", "gpu", _step("naive, torch.compile"), ("≥", 1.3)),
    Goal(f"{_STEP}: peak memory, ours over naive", "gpu", _step("naive", "peak_bytes"), ("≤", 0.4)),
    Goal("feature matching: share of a copy's bandwidth in the same run", "gpu", bandwidth_share, ("≥", 0.85), "%"),
    Goal(
        "renderer: a whole step captured (march, field, composite, backward, Adam), 64×64 rays × 64 samples",
        "gpu",
        captured_milliseconds,
        ("≤", 1.2),
        "ms",
    ),
    Goal(
        "renderer: field backward, share of the measured rate of scattered reductions",
        "gpu",
        scatter_share,
        ("≥", 0.5),
        "%",
    ),
    Goal(
        "renderer: the same step by tiny-cuda-nn and nerfacc over ours",
        "gpu",
        lambda rows: _ratio(rows, RENDERER, "tiny-cuda-nn + nerfacc", "ours, captured"),
        ("≥", 5.0),
    ),
    Goal(
        "host time of a call of `ldp_fast.losses`, the worst except feature matching: ours over naive, CPU tensors",
        "cpu",
        host_cost("cpu", feature_matching=False),
        ("≤", 1.5),
    ),
    Goal(
        "the same with meta tensors, which compute nothing",
        "cpu",
        host_cost("meta", feature_matching=False),
        ("≤", 1.5),
    ),
    Goal(
        "the same of our launches without a driver, against naive on CPU tensors",
        "cpu",
        host_cost("cuda, launched into nothing", feature_matching=False),
        ("≤", 1.5),
    ),
    Goal(
        "host time of a call of feature matching, tiny features: ours over naive, CPU tensors",
        "cpu",
        host_cost("cpu", feature_matching=True),
        ("≤", 1.5),
    ),
    Goal(
        "the same of its launches without a driver, against naive on CPU tensors",
        "cpu",
        host_cost("cuda, launched into nothing", feature_matching=True),
        ("≤", 1.5),
    ),
    Goal("renderer: what `torch.use_deterministic_algorithms(True)` costs", "gpu", determinism, None),
)


def _measurements(goal: Goal, machines: list[Results]) -> tuple[list[str], bool]:
    """The cells of a goal, and whether one of them is of the machine that it is about."""
    cells, there = [], False
    for results in machines:
        machine: dict[str, Any] = results["machine"]
        if (machine["gpu"] is None) != (goal.where == "cpu"):
            continue
        if goal.capability not in ("", machine.get("cpu_capability")):
            continue
        value = goal.value(results["rows"])
        if value is None:
            continue
        right = goal.where == "cpu" or GPU in machine["gpu"]
        there = there or right
        verdict = goal.verdict(value) if right else ""
        cells.append(f"{goal.shown(value)} on `{machine['slug']}`" + (f": {verdict}" if verdict else ""))
    return cells, there


def _missing(goal: Goal, machines: list[Results], elsewhere: bool) -> str:
    if goal.where == "gpu" and not any(results["machine"]["gpu"] for results in machines):
        return "no GPU yet"
    return f"no {GPU} yet" if elsewhere else "not in the results"


def table(machines: list[Results], where: Literal["cpu", "gpu"] | None = None) -> str:
    """All goals with what was measured; what was not is open, and says why."""
    lines = ["| what | goal | measured |", "|---|---|---|"]
    for goal in GOALS:
        if where is not None and goal.where != where:
            continue
        cells, there = _measurements(goal, machines)
        if not there:
            cells.append(f"open: {_missing(goal, machines, bool(cells))}")
        lines.append(f"| {goal.what} | {goal.target} | {'; '.join(cells)} |")
    return "\n".join(lines) + "\n"
