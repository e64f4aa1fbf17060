"""The decoder's attention, forward and the gradients to query, key and value: torch's backends, and products by hand.

    python -m pytest benchmarks/bench_attention.py
    python -m pytest benchmarks/bench_attention.py -k "4096 and bfloat16"

[v; v'] of one sample as Stable Diffusion's decoder has it for latents of 16 x 16, 32 x 32 and 64 x 64, one head of 512,
and as the embedded model's, one head of 64. `sdpa` is torch's choice among its backends, `flash`, `efficient`, `cudnn`
and `math` each of them alone; `plain` is ours by hand, at many tokens in parts (ldp_fast/decoder/attention.py), and
`chosen` what the decoder takes. `peak_bytes` is what a call adds (benchmarks/memory.py).
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ldp_fast._settings import ATTENTION_VARIABLE
from ldp_fast.decoder.attention import attend, gradients, way

from . import REHEARSING, memory
from .captured import times
from .machine import default_device
from .timing import check_gradients, synchronised

DEVICE = default_device()
# Samples, tokens, width of the head.
SIZES = {
    "small": (2, 64, 64),
    "embedded, 256": (2, 256, 64),
    "256": (2, 256, 512),
    "1024": (2, 1024, 512),
    "4096": (2, 4096, 512),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The other backends' names in torch. On a CPU there is one that is fused, and it is called flash's.
ALONE = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
BACKENDS = ("sdpa", *ALONE, "plain", "chosen")
Call = Callable[[], tuple[Tensor, ...]]


def inputs(size: str, dtype: str, device: str, seed: int = 0) -> tuple[Tensor, ...]:
    """query, key, value and the gradient of the result, [B, 1, N, D], laid out as the layer has them."""
    batch, tokens, width = SIZES[size]
    generator = torch.Generator("cpu").manual_seed(seed)
    together = torch.randn(batch, tokens, 4, 1, width, generator=generator).to(device, DTYPES[dtype])
    of_result = together[:, :, 3].contiguous()
    return *(x.transpose(1, 2) for x in together[:, :, :3].contiguous().unbind(2)), of_result.transpose(1, 2)


@contextlib.contextmanager
def asked(backend: str) -> Iterator[None]:
    """The decoder's attention takes a way, where one is named."""
    before = os.environ.get(ATTENTION_VARIABLE)
    if backend == "plain":
        os.environ[ATTENTION_VARIABLE] = "plain"
    try:
        yield
    finally:
        if backend == "plain":
            del os.environ[ATTENTION_VARIABLE]
            os.environ.update({} if before is None else {ATTENTION_VARIABLE: before})


def function(backend: str, query: Tensor, key: Tensor, value: Tensor, grad: Tensor) -> Call:
    """The result and the three gradients."""

    def ours() -> tuple[Tensor, ...]:
        with asked(backend):
            saved = attend(query, key, value)
            return saved[-1].detach(), *gradients(grad, saved)

    def torchs() -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in (query, key, value)]
        with sdpa_kernel(ALONE[backend]) if backend in ALONE else contextlib.nullcontext():
            result = F.scaled_dot_product_attention(*leaves)
        return result.detach(), *torch.autograd.grad(result, leaves, grad)

    return ours if backend in ("plain", "chosen") else torchs


def prepare(backend: str, size: str, dtype: str, device: str) -> tuple[Call, Call]:
    """A call at a size, and one at the smallest."""
    return tuple(function(backend, *inputs(each, dtype, device)) for each in (size, "small"))  # type: ignore


def without(backend: str, size: str, dtype: str, device: str) -> str | None:
    """Why a backend is not timed, or None."""
    if REHEARSING and (backend in ALONE or SIZES[size][1] > 256):
        return "the stand-in has products and a softmax in the place of torch's backends, and is slow"
    if device == "cpu" and backend in ("efficient", "cudnn"):
        return "a backend of CUDA"
    if device == "cpu" and SIZES[size][1] > 1024 and dtype == "float16" and backend in ("sdpa", "flash"):
        return "takes ten seconds and more on a CPU that does not multiply in float16: see 1024"
    return None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_attention(benchmark: Any, backend: str, dtype: str, size: str) -> None:
    """One call forward and backward; on CUDA the captured graph's time and the host's apart."""
    benchmark.group = f"attention {size} {dtype} {DEVICE}"
    benchmark.extra_info |= {"backend": backend, "shape": list(SIZES[size]), "dtype": dtype}
    if reason := without(backend, size, dtype, DEVICE):
        pytest.skip(reason)
    arguments = inputs(size, dtype, DEVICE)
    call = function(backend, *arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what a backend does not take before it refuses
            found = call()
    except RuntimeError as error:
        if backend not in ALONE or isinstance(error, torch.OutOfMemoryError):
            raise
        pytest.skip(f"torch's backend does not take it: {str(error).splitlines()[0]}")
    if backend == "chosen":
        benchmark.extra_info["way"] = way(arguments[0])
    check_gradients(found, function("math", *(x.float() for x in arguments))(), least=0.99)
    del found
    rounds = 20 if DEVICE == "cuda" or SIZES[size][1] < 1024 else 3
    benchmark.pedantic(synchronised(call, DEVICE), rounds=rounds, warmup_rounds=1)
    if DEVICE == "cuda":
        # Other inputs each time: those of the small sizes would otherwise be in the cache.
        calls = [function(backend, *inputs(size, dtype, DEVICE, seed)) for seed in range(4)]
        spent = times(calls, rounds=10)
        benchmark.extra_info |= {"device_s": spent.device, "host_s": spent.host}
    if not benchmark.disabled and (DEVICE == "cuda" or size == "4096"):
        named = {"backend": backend, "size": size, "dtype": dtype, "device": DEVICE}
        benchmark.extra_info |= memory.extra(call, "benchmarks.bench_attention:prepare", DEVICE, named)
