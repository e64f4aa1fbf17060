"""What is computed from a VAE's weights lives as long as one pass, and no longer.

Nothing derived is kept from pass to pass, so there is nothing that could be stale: whoever changes the weights (fused
optimisers and writers through `.data` leave no trace on a tensor, adapters and moving averages use both) changes the
next pass. What a pass derives it derives once, for its forward and its backward.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..ops.frozen_conv import shared_workspace

T = TypeVar("T")
# By thread: passes of several threads over one decoder do not meet, and autograd's threads derive their own.
_pass = threading.local()


@contextmanager
def one_pass() -> Iterator[None]:
    """A pass: what `once` makes inside is shared, and dropped at the end. One inside of another is a part of it."""
    outermost = not hasattr(_pass, "made")
    if outermost:
        _pass.made = {}
    try:
        with shared_workspace():
            yield
    finally:
        if outermost:
            del _pass.made


def once(owner: Any, name: Hashable, make: Callable[[], T]) -> T:
    """`make()`, or what it gave earlier in this pass to the same owner and name.

    Args:
        owner: an object that outlives the pass.
        name: which of its values.
        make: from weights to what is derived of them; run without a graph.
    """
    made: dict[Hashable, Any] | None = getattr(_pass, "made", None)
    if made is None:
        with torch.no_grad():
            return make()
    key = (id(owner), name)
    if key not in made:
        with torch.no_grad():
            made[key] = make()
    return made[key]


def cast(owner: Any, name: Hashable, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A weight without its graph, in a precision; itself where it has that already."""
    if weight is None:
        return None
    if weight.dtype == dtype:
        return weight.detach()
    return once(owner, (name, dtype), lambda: weight.detach().to(dtype))
