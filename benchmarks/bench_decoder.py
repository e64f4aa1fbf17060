"""Feature matching through the frozen decoder: loss and latent gradients, time and peak memory.

    python -m pytest benchmarks/bench_decoder.py
    python -m pytest benchmarks/bench_decoder.py -k "32x32 and not compile"

[v; v'] of one sample, levels up0 to up2. `naive` and its variants are the whole of diffusers' decoder with hooks
(benchmarks/baselines.py), `truncated, folded` what rearranging alone gives, `ours` is `FrozenDecoder`, and
`bare convolutions` the limit (benchmarks/limit.py). float32 on a CPU, bfloat16 on a GPU unless a row says otherwise.
Peak memory is what the pass adds (benchmarks/memory.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast.decoder import FrozenDecoder

from . import REHEARSING, limit, memory, models
from .baselines import FoldedDecoder, HookedDecoder, compiled, with_gradients
from .machine import bfloat16_missing, compile_missing
from .timing import check_gradients, measure

BACKENDS = (
    "naive",
    "naive, autocast bfloat16",
    "naive, torch.compile",
    "truncated, folded",
    "ours, save",
    "ours, recompute",
    "ours, bfloat16",
    "bare convolutions",
    "bare convolutions, bfloat16",
)
# Model and side of the latents; the largest first, in case that time runs out. A rehearsal has a small one of it.
SIZES = {
    "SD 1.5 64x64": ("SD 1.5", 8 if REHEARSING else 64),
    "SD 1.5 32x32": ("SD 1.5", 32),
    "SD 1.5 16x16": ("SD 1.5", 16),
    "SD 1.5 8x8": ("SD 1.5", 8),
    "small": ("embedded", 16),
}
WARM_UP_SIDE = 8


CASES = [(size, backend) for size in SIZES for backend in BACKENDS]


def without(backend: str, size: str, device: str) -> str | None:
    """Why a backend is not timed at a size on a device, or None."""
    half = "bfloat16" in backend
    if REHEARSING and backend.startswith("bare"):
        return "its shapes are found with fake tensors, which the stand-in's cannot become"
    if device == "cpu" and SIZES[size][1] > 32:
        return "a GPU's size: a naive pass takes a minute on two cores"
    if half and device == "cuda" and "autocast" not in backend:
        return "on a GPU all rows are bfloat16"
    if half and (reason := bfloat16_missing(device)):
        return reason
    if "compile" in backend and device == "cpu" and size not in ("small", "SD 1.5 16x16"):
        return "compiling takes minutes on two cores: timed at 16x16"
    if "compile" in backend and device == "cuda" and size not in ("small", "SD 1.5 64x64"):
        return "a compilation takes a minute: timed at 64x64"
    return compile_missing(device) if "compile" in backend else None


def dtype_of(backend: str, device: str) -> torch.dtype:
    """The precision of the weights."""
    # Autocast is for weights in float32; the others have theirs in half precision on a GPU, as one would.
    half = device == "cuda" and "autocast" not in backend
    return torch.bfloat16 if half or backend == "bare convolutions, bfloat16" else torch.float32


def prepare(
    backend: str, model: str, side: int, device: str, warm_up_side: int = WARM_UP_SIDE
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A pass at a size, and one on a tiny size; both return the loss and the gradients (nothing, for the limit)."""
    vae = models.load(model, device, dtype_of(backend, device), unet=False).vae
    if backend.startswith("bare"):
        return limit.prepare(vae, side), limit.prepare(vae, warm_up_side)
    function = _function(backend, vae, device)

    def at(side: int) -> Callable[[], Any]:
        v = models.sample_latents(side, device)
        v_prime = v + 0.5 * models.sample_latents(side, device, seed=5)
        return lambda: function(v, v_prime)

    # Compiled code is for one size.
    return at(side), at(side if "compile" in backend else warm_up_side)


def _function(backend: str, vae: Any, device: str) -> Callable[..., Any]:
    if backend == "truncated, folded":
        return with_gradients(FoldedDecoder(vae).loss)
    if backend.startswith("ours"):
        mode: Any = backend.removeprefix("ours, ")
        dtype = torch.bfloat16 if mode == "bfloat16" else None
        return FrozenDecoder(vae, models.LEVELS, memory="save" if dtype else mode, dtype=dtype).feature_matching
    decoder = HookedDecoder(vae)
    if "compile" in backend:
        return with_gradients(compiled(decoder.loss))
    step = with_gradients(decoder.loss)
    if "autocast" not in backend:
        return step

    def under_autocast(*latents: torch.Tensor) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return step(*latents)

    return under_autocast


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_feature_matching(benchmark: Any, device: str, case: tuple[str, str]) -> None:
    """Loss, d loss/dv and d loss/dv' of one sample."""
    size, backend = case
    model, side = SIZES[size]
    label = f"{model} {side}x{side}"
    benchmark.group = f"decoder, {label}, {device}"
    benchmark.extra_info |= {"backend": backend, "model": model, "side": side, "device": device}
    if reason := without(backend, size, device):
        pytest.skip(reason)
    benchmark.extra_info["dtype"] = "bfloat16" if "bfloat16" in backend or device == "cuda" else "float32"
    run, _ = prepare(backend, model, side, device)
    run()  # the warm-up
    if backend.startswith("bare"):
        vae = models.load(model, device, dtype_of(backend, device), unet=False).vae
        benchmark.extra_info["multiply_accumulates"] = limit.multiply_accumulates(vae, side)
    if "compile" in backend:
        check_gradients(run(), prepare("naive", model, side, device)[0]())
    # On a CPU a process for each: at the size that the goal is about.
    if not benchmark.disabled and (device == "cuda" or size == "SD 1.5 32x32") and not backend.startswith("bare"):
        arguments = {"backend": backend, "model": model, "side": side, "device": device}
        benchmark.extra_info |= memory.extra(run, "benchmarks.bench_decoder:prepare", device, arguments)
    rounds = 10 if device == "cuda" or side < 16 else 2 if side >= 32 else 5
    measure(benchmark, run, device, rounds=rounds)
