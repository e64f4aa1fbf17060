"""A step alone and beside busy neighbours: as the command line has its threads wait, and with torch's defaults.

    make bench BENCH=contention

`step` is the gradient of one sample of the embedded model, `text-to-3d` a step of `ldp-fast text-to-3d` with it. Each
way is a process (benchmarks/contention.py), and all of one step take turns beside the same neighbours. What a way of
ours took over ours with torch's defaults, round by round, is kept with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from . import contention
from .contention import ALONE, COMMAND, DEFAULTS, NEIGHBOURS, PASSIVE, TURNS, TWO, Process

# Of each step the ways to time it: name, which step, how its threads wait.
OURS, OURS_DEFAULTS, OURS_PASSIVE = "ours", "ours, torch's defaults", "ours, OMP_WAIT_POLICY=passive"
WAYS = {
    "step": {
        "naive": ("naive", DEFAULTS),
        OURS: ("ours", COMMAND),
        OURS_DEFAULTS: ("ours", DEFAULTS),
        OURS_PASSIVE: ("ours", PASSIVE),
    },
    "text-to-3d": {
        OURS: ("text-to-3d", COMMAND),
        OURS_DEFAULTS: ("text-to-3d", DEFAULTS),
        OURS_PASSIVE: ("text-to-3d", PASSIVE),
    },
}
PLACES = {"step": tuple(NEIGHBOURS), "text-to-3d": (ALONE, TWO)}
CASES = [(step, where, way) for step in WAYS for where in PLACES[step] for way in WAYS[step]]


class Clock:
    """Shows the sum of the seconds that the processes have measured; their pipes and turns are not part of a step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


class Turns:
    """The processes of one step, and what was measured of them."""

    def __init__(self) -> None:
        self._step = ""
        self._processes: dict[str, Process] = {}
        self._seconds: dict[tuple[str, str, str], list[float]] = {}

    def seconds(self, step: str, where: str, way: str) -> list[float]:
        """Of each turn; those of all the other ways are measured along with it."""
        if (step, where, way) not in self._seconds:
            self._start(step)
            found = contention.in_turn(list(self._processes.values()), where, TURNS[where])
            self._seconds |= {(step, where, name): s for name, s in zip(self._processes, found, strict=True)}
        return self._seconds[step, where, way]

    def _start(self, step: str) -> None:
        if step == self._step:
            return
        self.close()
        self._step, self._processes = step, {name: Process(*way) for name, way in WAYS[step].items()}
        for process in self._processes.values():
            process.wait()

    def close(self) -> None:
        """Ends the processes."""
        for process in self._processes.values():
            process.close()
        self._step, self._processes = "", {}


@pytest.fixture(scope="module")
def turns() -> Iterator[Turns]:
    found = Turns()
    yield found
    found.close()


def group(step: str, where: str) -> str:
    """The name of a group of results."""
    return f"contention, {step} of the embedded model, {where}, cpu"


# The first is named small, which is what the tests run.
@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("case", CASES, ids=["small-" * (c == ("step", ALONE, OURS)) + "-".join(c) for c in CASES])
def test_contention(benchmark: Any, device: str, turns: Turns, case: tuple[str, str, str]) -> None:
    """One way, beside some neighbours."""
    step, where, way = case
    benchmark.group = group(step, where)
    benchmark.extra_info |= {"backend": way, "step": step, "where": where}
    if device != "cpu":
        pytest.skip("it is about a CPU's threads: timed where there is no GPU")
    if benchmark.disabled:
        process = Process(*WAYS[step][way])
        process.wait()
        assert process.step() > 0
        process.close()
        return
    seconds = turns.seconds(step, where, way)
    if way != "naive":
        defaults = turns.seconds(step, where, OURS_DEFAULTS)
        benchmark.extra_info["over_defaults"] = contention.over(seconds, defaults)
    measured = iter(seconds)

    def turn() -> None:
        CLOCK.now += next(measured)

    benchmark.pedantic(turn, rounds=len(seconds))
