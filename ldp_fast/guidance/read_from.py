"""Whether a scheduler is still what its tables were read from: its configuration, its ᾱ_t, its ways to add noise."""

from __future__ import annotations

import ctypes
import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .noising import METHODS, SAMPLING, behind, is_of_diffusers, is_own
from .schedulers import said

_LARGE = 1 << 20  # bytes of a storage that are not compared at every step


class ReadFrom:
    """What a scheduler was when its tables were read; whether it still is takes microseconds and waits for nothing.

    What its configuration says of z_t and its ᾱ_t by value, for nobody counts who writes to them (a tensor on another
    device than a CPU by torch's count); and the methods by which it adds noise. Inside of a graph of torch.compile they
    are compared by identity alone. A copy and a pickle were read from nothing.

    Args:
        scheduler: None for nothing.
    """

    def __init__(self, scheduler: Any = None):
        self._scheduler = scheduler
        self._objects = _objects(scheduler)
        # The scheduler that a wrapper hands its calls to; which one it has is compared as well.
        self._behind = behind(scheduler)
        self._asked = scheduler is not None and not all(is_own(scheduler, name) for name in METHODS)
        self._values = None if scheduler is None else self._compared(scheduler)

    def holds(self, scheduler: Any) -> bool:
        """Whether this is the scheduler, unchanged."""
        if self._scheduler is None or scheduler is not self._scheduler:
            return False
        if torch.compiler.is_compiling():  # the rest cannot be in a graph
            config, table = _objects(scheduler)
            return config is self._objects[0] and table is self._objects[1]
        return bool(self._compared(scheduler) == self._values)

    def _compared(self, scheduler: Any) -> tuple[Any, ...]:
        table = getattr(scheduler, "alphas_cumprod", None)
        found = [_methods(scheduler), _value(table), [_plain(word) for word in said(scheduler)]]
        if self._behind is not scheduler:
            found += [_held(scheduler), _methods(self._behind), _value(getattr(self._behind, "alphas_cumprod", None))]
        if self._asked:
            # A method of somebody's own may look at numbers of its own.
            found += [_numbers(scheduler), _numbers(self._behind), _numbers(getattr(scheduler, "config", None))]
        return tuple(found)

    def __reduce__(self) -> tuple[Any, ...]:
        return (ReadFrom, ())


def _objects(scheduler: Any) -> tuple[Any, Any]:
    return getattr(scheduler, "config", None), getattr(scheduler, "alphas_cumprod", None)


class _Same:
    """Equal to another of the same object, whatever that says of equality. Keeps it: its address is not reused."""

    __slots__ = ("of",)

    def __init__(self, of: Any):
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.of is other.of

    __hash__ = None  # type: ignore[assignment]


def _methods(scheduler: Any) -> list[Any]:
    """The class, what `set_shift` has set, and what stands under each name in the object, its class, or behind it."""
    kind: Any = type(scheduler)
    held = getattr(scheduler, "__dict__", {})
    found: list[Any] = [_Same(kind), _plain(held.get("_shift"))]
    for name in METHODS:
        standing = held.get(name, next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None))
        stays = name in held or isinstance(standing, types.FunctionType)
        if stays or (standing is None and is_of_diffusers(scheduler)):
            found.append(_Same(standing))
        else:  # a wrapper's, which is made anew at every look
            found.append(_identity(getattr(scheduler, name, None)))
    return found


def _identity(method: Any, depth: int = 3) -> Any:
    """By what a callable is told from another, where it is another object at every look."""
    if not callable(method) or isinstance(method, type) or not depth:
        return _plain(method)
    if isinstance(method, functools.partial):
        return [_identity(x, depth - 1) for x in (method.func, *method.args, *method.keywords.values())]
    owner, function = getattr(method, "__self__", None), getattr(method, "__func__", None)
    if function is not None:
        return [_Same(owner), _Same(function), _plain(getattr(owner, "__dict__", {}).get("_shift"))]
    if isinstance(method, types.FunctionType):
        cells = [cell.cell_contents for cell in method.__closure__ or () if cell != types.CellType()]
        return [_Same(method.__code__), *(_identity(x, depth - 1) for x in cells)]
    return [_Same(method)]


def _held(wrapper: Any) -> list[Any]:
    """The schedulers of diffusers that something has."""
    return [_Same(x) for x in getattr(wrapper, "__dict__", {}).values() if is_of_diffusers(x)]


def _numbers(owner: Any) -> dict[str, Any]:
    """Numbers and texts among an object's attributes, or in a dictionary, except those that sampling changes."""
    held = {**(owner if isinstance(owner, Mapping) else {}), **getattr(owner, "__dict__", {})}
    return {k: _plain(x) for k, x in held.items() if isinstance(x, (int, float, str)) and k not in SAMPLING}


def _plain(value: Any) -> Any:
    """A value that can be compared with another: a number or a text itself, of everything else which object it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return float(value) if value == value else "nan"
    base = next((kind for kind in (int, str) if isinstance(value, kind)), None)
    return _Same(value) if base is None else base(value)


def version_of(value: Any) -> int:
    """How often a tensor was written to in place, as torch counts; 0 for everything else."""
    return value._version if isinstance(value, torch.Tensor) and not value.is_inference() else 0


def _value(table: Any) -> Any:
    if isinstance(table, torch.Tensor):
        if type(table) in (torch.Tensor, torch.nn.Parameter) and table.device.type == "cpu":
            # The bytes, and not an operation: the prior does nothing on the host's side that torch would have to do.
            shape = (table.dtype, tuple(table.shape), table.stride())
            if table.is_contiguous():
                return *shape, ctypes.string_at(table.data_ptr(), table.numel() * table.element_size())
            storage = table.untyped_storage()
            if storage.nbytes() <= _LARGE:
                return *shape, table.storage_offset(), ctypes.string_at(storage.data_ptr(), storage.nbytes())
        return _Same(table), version_of(table)
    if isinstance(table, (list, tuple)):
        return tuple(_value(x) for x in table) if table and isinstance(table[0], torch.Tensor) else tuple(table)
    return (table.dtype, table.shape, table.tobytes()) if isinstance(table, np.ndarray) else _Same(table)
