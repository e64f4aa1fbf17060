"""What a decoder's code depends on besides its weights, written down so that a change is noticed.

Weights are read in every pass. Everything else that decides what a VAE computes is looked at when its blocks are
recognised: which modules there are, their attributes, hooks, methods of their own, the code of their classes. A
`Snapshot` compares all that with what is there now, in about a microsecond a module; where it differs the blocks are
recognised anew. `settings_of` is the part of it that a block reads when it is computed again for its backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules import module as every_module

from .layers import Layer
from .recognise import GLOBAL_HOOKS, HOOKS, overridden

# Read in every pass.
_TENSORS = ("_parameters", "_buffers")
# What decides how a module is called, whatever it computes.
_STRUCTURE = ("_modules", *HOOKS)
_MISSING = object()
# Of attributes, what code sets and does not count with.
_SETTINGS = (float, bool, str, tuple)


class Snapshot:
    """The state of modules at one time.

    Args:
        by_hand: modules that are not called: all that they hold counts.
        called: modules that are called as they are: their code may do as it likes, and only which modules they hold,
            their hooks and their own methods count.
    """

    def __init__(self, by_hand: Iterable[nn.Module], called: Iterable[nn.Module] = ()):
        self._whole = [(m, type(m), len(vars(m)), _items(m)) for m in _unique(by_hand)]
        self._outer = [(m, type(m), overridden(m), _structure(m)) for m in _unique(called)]
        # Attention computes by an object of its own.
        processors = [getattr(m, "processor", None) for m, *_ in (*self._whole, *self._outer)]
        self._processors = [(p, dict(vars(p))) for p in processors if p is not None]
        kinds = {type(x) for x, *_ in (*self._whole, *self._outer, *self._processors)}
        self._code = [(kind, _code(kind)) for kind in kinds]
        self._global = [(table, dict(getattr(every_module, table, {}))) for table in GLOBAL_HOOKS]

    def same(self) -> bool:
        """Whether everything is as it was."""
        for module, kind, size, items in self._whole:
            held = module.__dict__
            if type(module) is not kind or len(held) != size:
                return False
            for name, value, mutable in items:
                now = held.get(name, _MISSING)
                if (mutable or now is not value) and not _equal(now, value):
                    return False
        for module, kind, own, structure in self._outer:
            if type(module) is not kind or any(module.__dict__.get(name) != value for name, value in structure):
                return False
            if overridden(module) != own:
                return False
        if not all(_equal(vars(processor), state) for processor, state in self._processors):
            return False
        return all(_code(kind) == code for kind, code in self._code) and all(
            getattr(every_module, table, {}) == held for table, held in self._global
        )


def settings_of(stages: Iterable[Iterable[Layer]]) -> list[Any]:
    """What layers read besides weights: two lists of it are equal where nothing has changed.

    Of layers by hand the numbers that they read; of modules that are called whatever may decide what they compute,
    except for what their own code may change in a call (counters, caches).
    """
    found: list[Any] = []
    for layers in stages:
        for layer in layers:
            found += [_called(module) for module in layer.called()]
            found += [(m.num_groups, m.eps) for m in layer.modules if isinstance(m, nn.GroupNorm)]
    return found


def _called(module: nn.Module) -> tuple[Any, ...]:
    kind, held = type(module), vars(module)
    kinds = (*_SETTINGS, int) if kind.__module__.startswith("torch.nn.") else _SETTINGS
    settings = {name: value for name, value in held.items() if type(value) in kinds}
    own = [(name, held[name]) for name in overridden(module)]
    return kind, kind.forward, own, held.get("processor"), settings, _structure(module)


def _unique(modules: Iterable[nn.Module]) -> list[nn.Module]:
    return list({id(m): m for m in modules}.values())


def _items(module: nn.Module) -> list[tuple[str, Any, bool]]:
    """Attributes with their values, copies of those that can change in place."""
    items = []
    for name, value in vars(module).items():
        if name in _TENSORS:
            continue
        if isinstance(value, dict):
            items.append((name, dict(value), True))
        else:
            mutable = type(value) in (list, set)
            items.append((name, value.copy() if mutable else value, mutable))
    return items


def _structure(module: nn.Module) -> list[tuple[str, Any]]:
    return [(name, dict(vars(module).get(name) or {})) for name in _STRUCTURE if name in vars(module)]


def _code(kind: type) -> tuple[Any, ...]:
    """What a class and its parents hold, up to torch's own, of which the methods that compute."""
    found: list[Any] = [getattr(kind, name, None) for name in ("__call__", "forward", "_conv_forward")]
    for parent in kind.__mro__:
        if parent is nn.Module:
            break
        if not parent.__module__.startswith("torch."):
            found += [value for value in vars(parent).values() if callable(value)]
    return tuple(found)


def _equal(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (RuntimeError, ValueError, TypeError):  # tensors and arrays have no single answer
        return False
