"""What `torch.compile` makes of ours: which functions stay outside of a caller's graphs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
_waiting: list[tuple[list[Callable[..., Any]], Callable[..., Any]]] = []


def outside_graphs(function: Function) -> Function:
    """Keeps a function out of a compiled caller's graphs: one ends before it and another begins after it.

    For what does its own bookkeeping over many small operators, and would come to pieces of a frame each. Nothing is
    imported for it: who compiles has imported torch._dynamo already, and nobody else pays for that.
    """
    kept: list[Callable[..., Any]] = []
    _waiting.append((kept, function))

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not kept:
            # Not asked inside of a trace, which would look at every module there is.
            if not torch.compiler.is_compiling() and "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            _disable()
        return kept[0](*args, **kwargs)

    # torch counts compilations by code object, which would be one for all functions.
    own: Any = call
    own.__code__ = own.__code__.replace(co_name=function.__name__)
    return cast(Function, own)


def _disable() -> None:
    """All at once: a trace that finds one of them not yet disabled has two frames more."""
    for kept, function in _waiting:
        if not kept:
            kept.append(torch.compiler.disable(function))
