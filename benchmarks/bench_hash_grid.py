"""The hash grid by itself: encoding and gradients, against the reference, over table sizes, and deterministic or not.

    python -m pytest benchmarks/bench_hash_grid.py

262 144 samples are 64×64 rays of 64. Samples follow one another along random rays (`rays`), or have nothing in common
(`scattered`). On CUDA the timed call ends with a synchronisation. What the hardware allows is measured by
`python -m benchmarks.microbenchmarks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast import ops, reference
from tests.support import samples

from .timing import measure

assert ops.hash_grid

SAMPLES = {"small": 4096, "step": 262_144}
NAMES = ("encode", "by_table", "by_positions")
BACKENDS = ("reference", "ours")


def grid_of(log2_table_size: int = 19) -> samples.hash_grid.Grid:
    """Instant-ngp's: 16 levels of 2 features from 16 to 2048."""
    return samples.hash_grid.Grid(16, 2, log2_table_size, 16, math.exp(math.log(2048 / 16) / 15))


def inputs(size: str, device: str, rays: bool, log2_table_size: int = 19) -> dict[str, Any]:
    made = samples.hash_grid.inputs(grid_of(log2_table_size), SAMPLES[size], device=device)
    if rays:
        generator = torch.Generator().manual_seed(0)
        start, end = (torch.rand(SAMPLES[size] // 64, 1, 3, generator=generator) for _ in range(2))
        positions = (start + (end - start) * (torch.arange(64) / 64)[None, :, None]).reshape(-1, 3)
        made["positions"] = positions.to(device).contiguous()
    return made


def call(name: str, backend: str, made: dict[str, Any], deterministic: bool = False) -> Callable[[], torch.Tensor]:
    namespace = torch.ops.ldp_fast if backend == "ours" else reference
    x, table, grad, layout = made["positions"], made["table"], made["grad"], made["layout"]
    if name == "encode":
        return lambda: namespace.hash_grid(x, table, None, None, *layout)
    if name == "by_table":
        return lambda: namespace.hash_grid_backward_table(grad, x, None, *table.shape, *layout, deterministic)
    return lambda: namespace.hash_grid_backward_positions(grad, x, table, None, None, *layout)


def time(
    benchmark: Any, device: str, function: Callable[[], torch.Tensor], made: dict[str, Any], graph: bool = True
) -> None:
    """Times a call and files how many samples it does a second, and the corners it reads or adds to."""
    function()
    rows, levels = len(made["positions"]), len(made["layout"].resolutions)
    benchmark.extra_info |= {"samples": rows, "corners": 8 * rows * levels, "entries": len(made["table"])}
    # The reference takes seconds.
    measure(benchmark, function, device, rounds=3 if device == "cpu" else 50, graph=graph)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["rays", "scattered"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", SAMPLES)
def test_against_the_reference(benchmark: Any, device: str, size: str, name: str, order: str, backend: str) -> None:
    made = inputs(size, device, order == "rays")
    benchmark.group = f"hash_grid {name} {order} {size} {device}"
    time(benchmark, device, call(name, backend, made), made, graph=backend == "ours")


@pytest.mark.parametrize("log2_table_size", range(14, 22))
@pytest.mark.parametrize("name", NAMES[:2])
@pytest.mark.parametrize("size", SAMPLES)
def test_over_table_sizes(benchmark: Any, device: str, size: str, name: str, log2_table_size: int) -> None:
    made = inputs(size, device, True, log2_table_size)
    benchmark.group = f"hash_grid {name} over T {size} {device}"
    time(benchmark, device, call(name, "ours", made), made)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("size", SAMPLES)
def test_what_determinism_costs(benchmark: Any, device: str, size: str, deterministic: bool) -> None:
    if device == "cpu":
        pytest.skip("on a CPU the sums always have the same bits: there is one way, and it costs nothing more")
    made = inputs(size, device, True)
    benchmark.group = f"hash_grid by_table deterministic {size} {device}"
    time(benchmark, device, call("by_table", "ours", made, deterministic), made)
