"""What every timed call needs: the device's end, and a check that the right thing is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def synchronised(function: Callable[[], Any], device: str) -> Callable[[], None]:
    """A call that ends when the device has ended."""

    def run() -> None:
        function()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def check_gradients(actual: Sequence[Tensor], expected: Sequence[Tensor], least: float = 0.9) -> None:
    """Refuses to time what does not compute the same: every tensor has to point the way the other one does.

    Raises:
        AssertionError: a cosine below `least`, which allows for half precision and its flipped signs.
    """
    for x, y in zip(actual, expected, strict=True):
        cosine = float(F.cosine_similarity(x.double().flatten(), y.double().flatten(), dim=0))
        assert cosine >= least, f"not timed: its result is not the naive one's (cosine {cosine:.2f})"
