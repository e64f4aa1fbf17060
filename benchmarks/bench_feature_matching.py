"""Feature matching, forward and both gradients: eager PyTorch, torch.compile of the same lines, and the operator.

    pytest benchmarks/bench_feature_matching.py

On a GPU at the sizes of the decoder of Stable Diffusion (up0, up1, up2), with the device synchronised inside each call;
on a CPU for latents of 8 x 8, where only ratios mean anything. `extra_info` holds the elements, the least bytes that
have to move, and the peak of allocated GPU memory above the inputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.losses.feature_matching import feature_matching_loss
from ldp_fast.reference import feature_matching as reference
from tests.samples_feature_matching import decoder_levels, sample_features, sample_halves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = (
    {"SD 1.5, 64x64, batch 1": (64, 1), "SD 1.5, 64x64, batch 4": (64, 4)} if DEVICE == "cuda" else {"small": (8, 1)}
)
BACKENDS = ("eager", "eager, bf16 to float32 by autocast", "torch.compile", "ldp_fast")


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
        if DEVICE == "cpu" and shutil.which("g++") is None:
            pytest.skip("torch.compile: needs a C++ compiler on the CPU, found none")
        torch._dynamo.reset()
        return torch.compile(eager, fullgraph=True, dynamic=False)
    return lambda halves: feature_matching_loss(halves, None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_feature_matching(benchmark: Any, backend: str, dtype: torch.dtype, size: str) -> None:
    latent, batch = SIZES[size]
    lists = sample_features(decoder_levels(latent), batch=batch, dtype=dtype, device=DEVICE, layout="channels_last")
    halves = sample_halves(*lists)
    del lists
    loss = loss_function(backend)

    def step() -> None:
        torch.autograd.grad(loss(halves), halves)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    elements = sum(x.numel() for x in halves) // 2
    benchmark.group = f"feature_matching {size} {dtype}"
    benchmark.extra_info["elements"] = elements
    benchmark.extra_info["least_bytes"] = int(elements * (4 * dtype.itemsize + 0.5))
    step()
    if DEVICE == "cuda":
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        benchmark.extra_info["peak_bytes"] = torch.cuda.max_memory_allocated() - held
    benchmark.pedantic(step, rounds=20 if DEVICE == "cuda" else 5, warmup_rounds=2)
