"""Compositing of packed samples, forward and backward: the reference and the operator.

    pytest benchmarks/bench_composite.py

On a CPU only the ratio means anything. `extra_info` holds the
rays, the samples and the least bytes that have to move.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from ldp_fast import reference
from ldp_fast.ops import composite as _registers  # noqa: F401
from tests.support import samples

from .timing import measure

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Rays, samples a ray, channels; density: half of the rays' light gets through, or an opaque scene with early stops.
SIZES = {
    "small": (16 * 16, 16, 4, 2.0),
    "64 x 64 rays, 64 samples": (64 * 64, 64, 4, 0.7),
    "64 x 64 rays, 64 samples, opaque": (64 * 64, 64, 4, 40.0),
    "512 x 512 rays, 16 samples": (512 * 512, 16, 4, 2.0),
}
BACKENDS = ("reference", "ldp_fast")


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_composite(benchmark: Any, backend: str, size: str, direction: str) -> None:
    rays, each, channels, density = SIZES[size]
    inputs = samples.composite.inputs(
        (each,) * rays, channels=channels, density=density, padding=0, early_stop=1e-4, device=DEVICE
    )
    backward = direction == "backward"
    # The gradients of values and opacity, as a loss on the rendered latents has them.
    arguments = samples.composite.backward_arguments(inputs, which=3) if backward else tuple(inputs.values())
    name = "composite_backward" if backward else "composite"
    function = getattr(reference if backend == "reference" else torch.ops.ldp_fast, name)
    benchmark.group = f"composite, {direction} {size} {DEVICE}"
    benchmark.extra_info |= {"rays": rays, "samples": rays * each}
    per_sample = 4 * (3 + 2 * channels + 1) if backward else 4 * (3 + channels + 1)
    benchmark.extra_info["least_bytes"] = rays * each * per_sample
    rounds, graph = 50 if DEVICE == "cuda" else 3, backend != "reference"
    measure(benchmark, partial(function, *arguments), DEVICE, rounds=rounds, warmup_rounds=1, graph=graph)
