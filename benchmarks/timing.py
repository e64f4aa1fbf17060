"""What every timed call needs: the device's end, its time and the host's apart, and a check of what is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import REHEARSING, captured


def synchronised(function: Callable[[], Any], device: str) -> Callable[[], None]:
    """A call that ends when the device has ended."""

    def run() -> None:
        function()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def measure(
    benchmark: Any,
    function: Callable[[], Any],
    device: str,
    *,
    rounds: int | None = None,
    warmup_rounds: int = 0,
    graph: bool = True,
) -> None:
    """Times a call to its end; on a GPU `extra_info` has the device's time and the host's as well.

    Args:
        benchmark: the fixture of pytest-benchmark.
        rounds: how often; None: as often as pytest-benchmark finds right.
        warmup_rounds: so many before, which do not count.
        graph: whether the call may be captured (benchmarks/captured.py).
    """
    run = synchronised(function, device)
    if rounds is None:
        benchmark(run)
    else:
        benchmark.pedantic(run, rounds=rounds, warmup_rounds=warmup_rounds)
    if device == "cuda" and (graph or not REHEARSING):  # a rehearsal has run it; what is captured it runs another way
        benchmark.extra_info |= captured.extra([function], graph=graph)


def check_gradients(actual: Sequence[Tensor], expected: Sequence[Tensor], least: float = 0.9) -> None:
    """Refuses to time what does not compute the same: every tensor has to point the way the other one does.

    Raises:
        AssertionError: a cosine below `least`, which allows for half precision and its flipped signs.
    """
    for x, y in zip(actual, expected, strict=True):
        cosine = float(F.cosine_similarity(x.double().flatten(), y.double().flatten(), dim=0))
        assert cosine >= least, f"not timed: its result is not the naive one's (cosine {cosine:.2f})"
