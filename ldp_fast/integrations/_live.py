"""What an adapter reads of its host, read at every step: hosts swap their VAE and their scheduler while they run.

What is made of it (a decoder, tables of α_t and σ_t) is kept, with the very objects that it was made of. A step
compares them by identity, which costs microseconds and waits for nothing, and makes it again only where the host has
others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from numbers import Real
from typing import Any, Generic, TypeVar

import torch

from ..errors import UsageError
from ..guidance import Schedule
from ..guidance.read_from import ReadFrom

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Attribute:
    """What an object has under a name at the moment.

    Attributes:
        owner: the host's object.
        name: dotted, as in `model.first_stage_model`.
    """

    owner: Any
    name: str

    def read(self) -> Any:
        """The value; an AttributeError if it is not there any more."""
        value = self.owner
        for part in self.name.split("."):
            value = getattr(value, part)
        return value


class Made(Generic[T]):
    """Something made of others' objects: at its first use, and again when they are others.

    A copy and a pickle have nothing in them: what a copied host needs is made of the copy's own modules.
    """

    def __init__(self) -> None:
        self._of: tuple[Any, ...] = ()
        self._values: tuple[Any, ...] = ()
        self._made: list[T] = []

    def get(self, objects: tuple[Any, ...], values: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` makes of them.

        Args:
            objects: compared by identity; kept, so that no other takes their address.
            values: compared by value: numbers, names, dtypes.
            make: called where one is another.
        """
        if not self._made or values != self._values or not _same(objects, self._of):
            self._made = [make()]
            self._of, self._values = objects, values
        return self._made[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Made, ())


def _same(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    return all(a is b for a, b in zip(ours, theirs, strict=True))


class LiveSchedule:
    """α_t, σ_t and w(t) of the scheduler that a host has now.

    The tables are made again when the host has another scheduler, or the scheduler another `alphas_cumprod`, another
    configuration or another way to add noise.

    Args:
        host: the host's object, with a `scheduler`.
    """

    def __init__(self, host: Any):
        self._host = host
        self._tables: Schedule | None = None
        self._of = ReadFrom()

    def read(self, device: torch.device | str) -> Schedule:
        """The tables, on `device`.

        Raises:
            TypeError: the scheduler lacks `alphas_cumprod`.
            UsageError: a scheduler that is not known here, or a `min_step` or `max_step` of the host's outside of it.
        """
        scheduler = self._host.scheduler
        if self._tables is None or not self._of.holds(scheduler):
            self._tables, self._of = Schedule.from_scheduler(scheduler), ReadFrom(scheduler)
        found = self._tables
        if not torch.compiler.is_compiling():
            self._check_steps(len(found))
        return found.to(torch.device(device))

    def _check_steps(self, count: int) -> None:
        """The host draws t between two numbers: here they can be looked at, on a GPU t cannot."""
        for name in ("min_step", "max_step"):
            step = getattr(self._host, name, getattr(getattr(self._host, "args", None), name, None))
            if isinstance(step, Real) and not 0 <= float(step) < count:
                raise UsageError(f"{name}: expected a t of the scheduler, 0 to {count - 1}; got {step}")
