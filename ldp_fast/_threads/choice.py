"""What the command line puts into the environment before torch is imported, and why.

torch takes a thread for each physical core that its affinity allows, also where a cgroup's quota gives it the time of
two: `OMP_NUM_THREADS` then says how many. Threads that have ended their part of a loop spin until the others have,
which beside other work keeps the others from ending theirs (docs/contention.md). Two ways out of it:

* under a quota, where spinning uses up the time that there is, `OMP_WAIT_POLICY=passive`: threads sleep at once. The
  OpenMP runtimes of GNU (which torch's wheels for Linux bring), LLVM and Intel all read it when they are loaded. So it
  is where the system does not say how the threads fare.
* else nothing in the environment: sleeping at once makes small steps slower on a quiet machine. A command then watches
  whether its threads have to wait for a CPU, and has them sleep as long as they do (`waiting`).

What the user has set stays as it is.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

from .cpus import Cpus
from .waiting import observable

THREADS, POLICY = "OMP_NUM_THREADS", "OMP_WAIT_POLICY"
# Each of these is somebody's decision about the number of threads, or about how they wait.
NUMBER_VARIABLES = (THREADS, "MKL_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC")
WAITING_VARIABLES = (POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        set: variables and what they are set to.
        threads: the number of threads, and why, as a line.
        waiting: how threads wait for each other, and why, as a line.
        watch: whether a command watches how its threads fare (`waiting`).
    """

    set: dict[str, str] = field(default_factory=dict)
    threads: str = ""
    waiting: str = ""
    watch: bool = False


def choose(environment: Mapping[str, str], cpus: Cpus, observable: bool) -> Choice:
    """Decides for an environment and what a process may use; changes nothing.

    Args:
        environment: the variables, of which those that the user has set stay.
        cpus: what the process may use.
        observable: whether the system says how long threads wait for a CPU (`waiting.observable`).
    """
    chosen: dict[str, str] = {}
    threads = _threads(environment, cpus, chosen)
    waiting, watch = _waiting(environment, cpus, observable, chosen)
    return Choice(chosen, threads, waiting, watch)


def _threads(environment: Mapping[str, str], cpus: Cpus, chosen: dict[str, str]) -> str:
    if given := _given(environment, NUMBER_VARIABLES):
        return f"as the environment says: {given}"
    number, reasons = cpus.cores, [limits(cpus)]
    if cpus.quota is not None:
        # Rounded up, for a part of a CPU is not to be left unused.
        number = min(number, math.ceil(cpus.quota.cpus))
    ranks = _ranks_here(environment)
    if ranks > 1:
        number = max(1, number // ranks)
        reasons.append(f"shared by {ranks} ranks (LOCAL_WORLD_SIZE)")
    why = ", ".join(reasons)
    if number >= cpus.cores:
        return f"torch's choice: {why}"
    chosen[THREADS] = str(number)
    return f"{number}: {why}"


def _waiting(environment: Mapping[str, str], cpus: Cpus, observable: bool, chosen: dict[str, str]) -> tuple[str, bool]:
    if given := _given(environment, WAITING_VARIABLES):
        return f"as the environment says: {given}", False
    if cpus.quota is not None and cpus.quota.cpus < cpus.affinity:
        chosen[POLICY] = "passive"
        return "passive: spinning would use up the quota", False
    if not observable:
        chosen[POLICY] = "passive"
        return "passive: this system does not say how long threads wait for a CPU", False
    return "threads spin, and sleep while other work takes their CPUs", True


def limits(cpus: Cpus) -> str:
    """What limits a process, in words."""
    shared = "" if cpus.cores == cpus.affinity else f" on {cpus.cores} cores"
    plural = "" if cpus.affinity == 1 else "s"
    quota = "no quota" if cpus.quota is None else f"a quota of {cpus.quota.cpus:g} ({cpus.quota.file})"
    return f"{cpus.affinity} CPU{plural} by affinity{shared}, {quota}"


def _given(environment: Mapping[str, str], names: tuple[str, ...]) -> str:
    return " ".join(f"{name}={environment[name]}" for name in names if environment.get(name))


def _ranks_here(environment: Mapping[str, str]) -> int:
    word = environment.get("LOCAL_WORLD_SIZE", "")
    return int(word) if word.isdecimal() else 1


_adopted: Choice | None = None


def adopt(environment: MutableMapping[str, str] = os.environ, cpus: Cpus | None = None) -> Choice:
    """Chooses for this process and sets the variables; for a program's start, before torch is imported.

    Where torch is there already, nothing is set: its threads would not hear of it.
    """
    global _adopted
    choice = choose(environment, Cpus.read() if cpus is None else cpus, observable())
    if choice.set and "torch" in sys.modules:
        late = "torch was imported before the choice"
        choice = Choice({}, f"torch's choice: {late}", f"the OpenMP runtime's way: {late}", choice.watch)
    environment.update(choice.set)
    _adopted = choice
    return choice


def adopted() -> Choice | None:
    """What `adopt` chose in this process; None where it was not called, as where this package is a library."""
    return _adopted
