"""Has OpenMP's threads sleep, not spin, while they wait for each other, as long as other work takes their CPUs.

At the end of a parallel loop the threads of GNU's OpenMP spin for some milliseconds until the last has come. With a CPU
for each this is the fastest way. Beside other work the last one is often not running, because the CPU that it needs
belongs to one that spins: a step then takes many times as long. `OMP_WAIT_POLICY=passive` would have them always sleep,
and on a quiet machine every small loop would wait for threads to wake up.

The runtime knows a middle way: while it has more threads than there are CPUs, it spins for a hundredth of the time and
less, and it looks at both numbers at every wait. So this switches between the two by holding idle threads: a Python
thread runs one parallel loop of torch's, which gives it a team of its own, and sleeps until it is told to end, which
ends its team. What torch computes with, and in which parts, stays the same, and so do its results.

Whether other work takes CPUs is what Linux says of every thread (`/proc/self/task/*/schedstat`): the time that it ran,
and the time that it could have run and had to wait for a CPU.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .cpus import affinity

TASKS, MAPS = Path("/proc/self/task"), Path("/proc/self/maps")
PERIOD = 0.2  # seconds between two looks
# Shares of the time that threads wanted to run in which they had to wait for a CPU: from which on threads that spin are
# to sleep, and below which threads that sleep are to spin again. Measured on two cores (docs/contention.md): on a quiet
# machine at most 0.05 spinning and 0.19 sleeping (threads that wake up wait a little each time), beside one busy loop
# at least 0.26 and 0.29.
MANY, FEW = 0.15, 0.22
QUIET_LOOKS = 3  # so many in a row below `FEW`
LEAST_NS = 10e6  # a look at which the threads wanted less says nothing
MOST_TASKS = 32  # of which the times are read, for a look to cost little on a machine with many cores
MOST_HELD = 4
_RUNTIME = re.compile(r"(libgomp|libiomp5|libomp)[^/]*\.(?:so|dylib)[^/]*$")

Times = dict[str, tuple[int, int]]


def runtime(maps: Path = MAPS) -> str | None:
    """The OpenMP runtime that is loaded: libgomp, libiomp5 or libomp; None where it cannot be told."""
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = {match[1]: line for line in lines if (match := _RUNTIME.search(line))}
    own = [name for name, line in found.items() if "/torch" in line]
    return next(iter([*own, *found]), None)


def times(tasks: Path = TASKS) -> Times:
    """Of each thread of this process: nanoseconds that it ran, and that it waited for a CPU."""
    found = {}
    for name in sorted(os.listdir(tasks), key=lambda n: (len(n), n))[:MOST_TASKS]:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            words = (tasks / name / "schedstat").read_text().split()
            found[name] = int(words[0]), int(words[1])
    return found


class Judge:
    """Decides from looks at the threads' times whether they sleep."""

    def __init__(self) -> None:
        self.sleeping = False
        self._last: Times = {}
        self._quiet = 0

    def look(self, now: Times) -> bool:
        """Takes the next times, and returns whether threads that wait for others are to sleep."""
        ran = delayed = 0
        for name, (run, delay) in now.items():
            if name in self._last:
                ran, delayed = ran + run - self._last[name][0], delayed + delay - self._last[name][1]
        self._last = now
        if ran + delayed < LEAST_NS:
            return self.sleeping
        share = delayed / (ran + delayed)
        if not self.sleeping:
            self.sleeping, self._quiet = share > MANY, 0
            return self.sleeping
        self._quiet = self._quiet + 1 if share < FEW else 0
        self.sleeping = self._quiet < QUIET_LOOKS
        return self.sleeping


def teams(threads: int, cpus: int) -> int:
    """How many further teams of so many threads give the runtime more threads than there are CPUs."""
    return max(1, (cpus - threads) // (threads - 1) + 1)


def unable() -> str | None:
    """Why this process cannot switch, or None. To be asked when torch is imported."""
    torch = sys.modules.get("torch")
    if torch is None:
        return "torch is not imported"
    if (threads := torch.get_num_threads()) < 2:
        return "a single thread does not wait for others"
    if not observable():
        return "this system does not say how long threads wait for a CPU"
    if (found := runtime()) != "libgomp":
        return f"torch's OpenMP runtime is {found or 'unknown'}, not GNU's"
    if teams(threads, len(affinity())) > MOST_HELD:
        return f"{threads} threads are few for {len(affinity())} CPUs"
    return None


def observable(tasks: Path = TASKS) -> bool:
    """Whether the system says how long threads wait for a CPU."""
    try:
        return bool(times(tasks))
    except OSError:
        return False


class Held:
    """Idle teams of threads, from `hold` to `release`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._end: threading.Event | None = None
        self._threads: list[threading.Thread] = []

    def hold(self) -> None:
        """Starts them; nothing if they are there."""
        if self._end is not None:
            return
        self._end = threading.Event()
        self._threads = [self._start(self._end) for _ in range(self._count)]

    def _start(self, end: threading.Event) -> threading.Thread:
        def idle() -> None:
            torch: Any = sys.modules["torch"]
            torch.zeros(2**17).add_(1)  # more than one thread's share, so that there is a team
            end.wait()

        thread = threading.Thread(target=idle, name="ldp-fast-idle", daemon=True)
        thread.start()
        return thread

    def release(self) -> None:
        """Ends them; nothing if there are none."""
        if self._end is None:
            return
        self._end.set()
        for thread in self._threads:
            thread.join()
        self._end, self._threads = None, []


@contextlib.contextmanager
def watched(period: float = PERIOD) -> Iterator[Held | None]:
    """Within it threads sleep or spin as other work demands. None, and nothing happens, where `unable` says why."""
    if unable() is not None:
        yield None
        return
    torch: Any = sys.modules["torch"]
    held, end = Held(teams(torch.get_num_threads(), len(affinity()))), threading.Event()

    def watch() -> None:
        judge = Judge()
        # RuntimeError: no thread could be started; whatever fails here, the command goes on as it would without.
        with contextlib.suppress(OSError, RuntimeError):
            while not end.wait(period):
                held.hold() if judge.look(times()) else held.release()
        held.release()

    watcher = threading.Thread(target=watch, name="ldp-fast-watch", daemon=True)
    watcher.start()
    try:
        yield held
    finally:
        end.set()
        watcher.join()
