"""A step in a process of its own, beside busy neighbours: what benchmarks/bench_contention.py asks for its times.

How OpenMP's threads wait is read from the environment when torch is loaded, so every way of waiting is a process. All
are ready at once and sleep; each in its turn does some steps, so that what changes on the machine changes for all. Each
round draws their order: who comes after a process that leaves the caches to others pays for it.

    python -m benchmarks.contention step ours command      # such a process: a line in, a step, its seconds out
    python -m benchmarks.contention neighbour              # naive steps without end, with torch's defaults
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ldp_fast._threads import choice, waiting

ROOT = Path(__file__).resolve().parents[1]
# How the threads wait: as the command line has it, as torch does without it, and what is usually advised.
COMMAND, DEFAULTS, PASSIVE = "command", "defaults", "passive"
WARM_UP = 5
LOOP = [sys.executable, "-c", "while True: pass"]
NEIGHBOUR = [sys.executable, "-m", "benchmarks.contention", "neighbour"]
ALONE, ONE, TWO, TORCH = "alone", "beside one busy loop", "beside two busy loops", "beside a torch process"
NEIGHBOURS: dict[str, tuple[list[str], ...]] = {ALONE: (), ONE: (LOOP,), TWO: (LOOP, LOOP), TORCH: (NEIGHBOUR,)}
TURNS = {ALONE: 40, ONE: 6, TWO: 6, TORCH: 6}
# Steps of one turn, of which the mean counts: alone a few percent are to be told apart.
STEPS = {ALONE: 4, ONE: 1, TWO: 1, TORCH: 1}
# Of the first turns beside neighbours nothing is kept: the watch looks five times a second.
UNCOUNTED = 4
PAUSE = 0.02  # seconds between two turns: threads that spin have slept by then


def environment(way: str) -> dict[str, str]:
    """The variables of a process, without anybody's decision about threads but the way's."""
    decided = {*choice.NUMBER_VARIABLES, *choice.WAITING_VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name not in decided}
    return kept | ({choice.POLICY: "passive"} if way == PASSIVE else {})


class Process:
    """One process that does a step when it is told to.

    Args:
        step: `ours`, `naive` or `text-to-3d`.
        way: how its threads wait.
    """

    def __init__(self, step: str, way: str):
        command = [sys.executable, "-m", "benchmarks.contention", "step", step, way]
        pipe: Any = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment(way), stdin=pipe, stdout=pipe, text=True)
        self._told, self._said = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def wait(self) -> float:
        """What it says next: the seconds of a step, or 0 when it is ready.

        Raises:
            RuntimeError: it ended.
        """
        line = self._said.readline()
        if not line:
            raise RuntimeError(f"a step's process ended with exit code {self._process.wait()}")
        return float(line)

    def step(self) -> float:
        """Seconds of one step."""
        self._told.write("\n")
        self._told.flush()
        return self.wait()

    def close(self) -> None:
        """Ends it."""
        with contextlib.suppress(BrokenPipeError):
            self._told.close()
        self._process.wait(timeout=60)


@contextlib.contextmanager
def neighbours(where: str) -> Iterator[None]:
    """Within it this machine has the neighbours of `NEIGHBOURS`."""
    started = [subprocess.Popen(command, cwd=ROOT, env=environment(DEFAULTS)) for command in NEIGHBOURS[where]]
    try:
        if started:
            time.sleep(6 if where == TORCH else 1)  # until it computes
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def in_turn(processes: Sequence[Process], where: str, turns: int) -> list[list[float]]:
    """Seconds of a step in each of `turns` turns of each process, one after another, beside neighbours."""
    found: list[list[float]] = [[] for _ in processes]
    order, draw = list(zip(processes, found, strict=True)), random.Random(0)
    with neighbours(where):
        for turn in range(-UNCOUNTED, turns):
            draw.shuffle(order)
            for process, seconds in order:
                time.sleep(PAUSE)
                taken = statistics.mean(process.step() for _ in range(STEPS[where]))
                if turn >= 0:
                    seconds.append(taken)
    return found


def over(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """First quartile, median and third quartile of what one process took in a turn over what another took in it."""
    return statistics.quantiles((own / other for own, other in zip(seconds, others, strict=True)), n=4)


def prepare(step: str) -> Callable[[], Any]:
    """A step of the embedded model as a call; imports torch.

    Raises:
        ValueError: it is not one of those of `Process`.
    """
    if step not in ("ours", "naive", "text-to-3d"):
        raise ValueError(f"step: expected ours, naive or text-to-3d, got {step!r}")
    if step != "text-to-3d":
        from .bench_step import prepare as prepared

        return prepared(step, "embedded", 16, "cpu")[0]
    import argparse

    from ldp_fast.apps.options import load_prior
    from ldp_fast.apps.text_to_3d import command
    from ldp_fast.apps.text_to_3d.scene import Scene
    from ldp_fast.apps.text_to_3d.trainer import Trainer
    from ldp_fast.runs import files

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    configuration = files.plain(command.configure(parser.parse_args(["a red torus", "--device", "cpu"])))
    prior = load_prior(configuration)
    trainer = Trainer(Scene(configuration, prior), prior)
    return trainer.advance


def serve(step: str, way: str) -> None:
    """Does a step for every line of the standard input, until that ends."""
    if way == COMMAND:
        choice.adopt()
    run = prepare(step)
    chosen = choice.adopted()
    with waiting.watched() if chosen is not None and chosen.watch else contextlib.nullcontext():
        for _ in range(WARM_UP):
            run()
        print(0.0, flush=True)
        for _ in sys.stdin:
            start = time.perf_counter()
            run()
            print(time.perf_counter() - start, flush=True)


def main() -> None:
    """The processes."""
    if sys.argv[1] == "step":
        serve(*sys.argv[2:4])
        return
    run = prepare("naive")
    while True:
        run()


if __name__ == "__main__":
    main()
