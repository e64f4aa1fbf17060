"""What a run is going to take, said before it begins: time and memory; what cannot fit is refused."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Mapping

import torch

from ..errors import UsageError, of_memory

# A run of fewer steps is over before anybody has read how long it takes.
FEWEST = 20
# A step that takes longer than this is not done twice to leave out what the first one does besides.
LONG = 5.0

# What the numbers are not of.
AFTER = "what is made of them at the end, such as pictures, comes after that"


@dataclasses.dataclass(frozen=True)
class Expectation:
    """What the steps of a run take.

    Attributes:
        seconds: of all steps that are left; None where nobody has measured.
        memory: bytes beside what is there already, by what they are for, such as `UNet`.
        free: bytes that there are.
        device: whose memory it is.
        least: whether more memory is needed than that, as what was tried to count it did not fit.
    """

    seconds: float | None
    memory: Mapping[str, int]
    free: int
    device: str
    least: bool = False

    @property
    def needed(self) -> int:
        """Bytes in all."""
        return sum(self.memory.values())

    @property
    def _about(self) -> str:
        return "more than" if self.least else "about"

    @property
    def fits(self) -> bool:
        """Whether as much is free as is needed."""
        return self.needed <= self.free

    def line(self) -> str:
        """For whoever starts a run: of the steps, such as `its steps take about 4 minutes and 110 MB of memory on cpu`.

        What is free follows, and that what is made at the end does not count.
        """
        took = f"{duration(self.seconds)} and " if self.seconds is not None else ""
        return (
            f"its steps take {self._about} {took}{size(self.needed)} of memory on {self.device}, where "
            f"{size(self.free)} are free; {AFTER}"
        )

    @property
    def largest(self) -> list[str]:
        """The names of what takes the most: one, or two where the second takes a tenth of all at least."""
        ordered = sorted(self.memory, key=lambda name: -self.memory[name])
        return ordered[:1] + [name for name in ordered[1:2] if self.memory[name] >= self.needed / 10]

    def refusal(self, advice: str) -> UsageError:
        """Why a run is not begun.

        Args:
            advice: what makes it smaller, such as `lower --size or --views`.
        """
        shown = sorted(self.memory, key=lambda name: -self.memory[name])[:2]
        parts = ", ".join(f"{name} {size(self.memory[name])}" for name in shown)
        took = f", and its steps would take about {duration(self.seconds)}" if self.seconds is not None else ""
        return UsageError(
            f"there is not enough memory on {self.device}: this run needs {self._about} {size(self.needed)} ({parts}) "
            f"and {size(self.free)} are free{took}; {advice}"
        )


def seconds_of(step: Callable[[], object], device: torch.device) -> float:
    """How long a step takes: the second one, for the first one loads and compiles; the first one if it takes long."""

    def once() -> float:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    first = once()
    return first if first > LONG else once()


def rehearsed(rehearse: Callable[[], float], device: torch.device) -> float | None:
    """What a rehearsal measures, with the memory given back that it took.

    Args:
        rehearse: makes a copy of a run, and a step or two of it; returns seconds.
        device: where.

    Returns:
        The seconds; None where there is not the memory for a copy beside the run, which may fit all the same.
    """
    try:
        return rehearse()
    except (RuntimeError, MemoryError) as error:
        if not of_memory(error):
            raise
        return None
    finally:
        # By now nothing holds the copy any more, the error's frames included.
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def duration(seconds: float) -> str:
    """For people: `40 seconds`, `5 minutes`, `3.2 hours`, `12 days`."""
    for unit, length, below in (("second", 1, 90), ("minute", 60, 5400), ("hour", 3600, 172800), ("day", 86400, 3e7)):
        if seconds < below:
            found = seconds / length
            shown = f"{found:.2g}" if unit == "hour" and found < 10 else f"{max(1, round(found))}"
            return f"{shown} {unit}{'s' * (shown != '1')}"
    return f"{seconds / 31557600:,.3g} years"


def size(count: float) -> str:
    """Bytes for people: `48 MB`, `3.2 GB`, `1.5 TB`."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:,.2g} {unit}" if count < 10 * length else f"{count / length:,.0f} {unit}"
    return f"{max(1, round(count / 1e3))} kB"
