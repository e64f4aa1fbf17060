"""Feature matching, forward and both gradients: eager PyTorch, torch.compile of the same lines, and the operator.

    pytest benchmarks/bench_feature_matching.py

On a GPU at the sizes of the decoder of Stable Diffusion (up0, up1, up2), on a
CPU for latents of 16 x 16, where only ratios mean anything. `extra_info` holds the elements, the least bytes that
have to move, and the peak of allocated GPU memory above the inputs. `copy` moves the features to another place: what
the memory allows, for the share of its bandwidth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.losses.feature_matching import feature_matching_loss
from ldp_fast.reference import feature_matching as reference
from tests.support import samples

from .machine import compile_missing, default_device
from .timing import measure

DEVICE = default_device()
SIZES = (
    {"SD 1.5, 64x64, batch 1": (64, 1), "SD 1.5, 64x64, batch 4": (64, 4)}
    if DEVICE == "cuda"
    else {"small": (4, 1), "SD 1.5, 16x16, batch 1": (16, 1)}
)
BACKENDS = ("eager", "eager, bf16 to float32 by autocast", "torch.compile", "ldp_fast", "copy")


def loss_function(backend: str) -> Callable[[list[Tensor]], Any]:
    """The loss of halves [2B, C_l, H_l, W_l] by one of the backends."""

    def eager(halves: list[Tensor]) -> Tensor:
        chunks = [x.chunk(2) for x in halves]
        return reference.feature_matching_loss([x for x, _ in chunks], [x_prime for _, x_prime in chunks])

    def l1(halves: list[Tensor]) -> Any:
        with torch.autocast(DEVICE, torch.bfloat16):
            return sum(torch.nn.functional.l1_loss(*x.chunk(2)) for x in halves)

    if backend == "eager":
        return eager
    if backend.startswith("eager,"):
        return l1
    if backend == "torch.compile":
        if reason := compile_missing(DEVICE):
            pytest.skip(reason)
        torch._dynamo.reset()
        return torch.compile(eager, fullgraph=True, dynamic=False)
    return lambda halves: feature_matching_loss(halves, None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_feature_matching(benchmark: Any, backend: str, dtype: torch.dtype, size: str) -> None:
    latent, batch = SIZES[size]
    lists = tuple(
        samples.feature_matching.inputs(
            samples.feature_matching.decoder_levels(latent),
            batch=batch,
            dtype=dtype,
            device=DEVICE,
            layout="channels_last",
        ).values()
    )
    halves = samples.feature_matching.halves(*lists)
    del lists
    elements = sum(x.numel() for x in halves) // 2
    benchmark.group = f"feature_matching {size} {dtype}"
    benchmark.extra_info["elements"] = elements
    benchmark.extra_info["least_bytes"] = int(elements * (4 * dtype.itemsize + (0 if backend == "copy" else 0.5)))
    if backend == "copy":
        there = [torch.empty_like(x) for x in halves]

        def step() -> Any:
            return torch._foreach_copy_(there, halves)

    else:
        loss = loss_function(backend)

        def step() -> Any:
            return torch.autograd.grad(loss(halves), halves)

    step()
    if DEVICE == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        benchmark.extra_info["peak_bytes"] = torch.cuda.max_memory_allocated() - held
    measure(benchmark, step, DEVICE, rounds=20 if DEVICE == "cuda" else 5, warmup_rounds=2)
