"""A step of Adam on a hash table, with all that belongs to it: moments, half-precision shadow, zeroed gradient.

    pytest benchmarks/bench_fused_adam.py

Baselines: the reference; torch.optim.Adam in its `foreach` and its `fused` form, each followed by the cast and the
zeroing that the operator does in the same pass. `extra_info` holds the least bytes: 34 an element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast import reference
from ldp_fast.nerf.optimiser import FusedAdam
from tests.support import samples

from .timing import measure

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Entries of two features; the largest is a grid of 16 levels with 2^19 entries.
SIZES = {"small": (4096, 2), "2^17 entries": (2**17, 2), "16 levels of 2^19": (6_119_864, 2)}
BACKENDS = ("reference", "torch.optim.Adam, foreach", "torch.optim.Adam, fused", "ldp_fast")


def step_function(backend: str, arguments: dict[str, Any]) -> Callable[[], None]:
    """One step of a backend on the sample's parameter and gradient."""
    if backend == "reference":
        return lambda: reference.fused_adam(*arguments.values())
    param = torch.nn.Parameter(arguments["param"])
    param.grad = arguments["grad"]
    shadow = arguments["shadow"]
    if backend == "ldp_fast":
        ours = FusedAdam([param], shadows={param: shadow})
        return lambda: ours.step()
    form = {backend.split(", ")[1]: True}
    theirs = torch.optim.Adam([param], lr=1e-2, betas=(0.9, 0.99), eps=1e-15, **form)

    def step() -> None:
        theirs.step()
        with torch.no_grad():
            shadow.copy_(param)
        theirs.zero_grad(set_to_none=False)

    return step


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fused_adam(benchmark: Any, backend: str, size: str) -> None:
    arguments = samples.fused_adam.inputs(SIZES[size], shadow=True, device=DEVICE)
    step = step_function(backend, arguments)
    benchmark.group = f"fused_adam {size} {DEVICE}"
    elements = arguments["param"].numel()
    benchmark.extra_info |= {"elements": elements, "least_bytes": 34 * elements}
    measure(benchmark, step, DEVICE, rounds=50 if DEVICE == "cuda" else 5, warmup_rounds=2)
