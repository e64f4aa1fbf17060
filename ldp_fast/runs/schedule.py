"""What changes over a run: weights that go from one value to another."""

from __future__ import annotations

from typing import NamedTuple


class Ramp(NamedTuple):
    """A weight over a run: `first` until the fraction `begin` of it, `last` from the fraction `end` on."""

    first: float
    last: float
    begin: float
    end: float

    def at(self, progress: float) -> float:
        """The weight at a fraction of the run."""
        if progress >= self.end:
            return self.last
        if progress <= self.begin:
            return self.first
        return self.first + (self.last - self.first) * (progress - self.begin) / (self.end - self.begin)


def constant(value: float) -> Ramp:
    """A weight that stays."""
    return Ramp(value, value, 0.0, 0.0)
