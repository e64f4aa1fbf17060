"""Group norm and SiLU with the gradient of the input: eager PyTorch, torch.compile of the same lines, and our operators
as the decoder calls them.

    pytest benchmarks/bench_group_norm_silu.py

`forward` is moments and output, `both` the gradient of x as well; `decoder` has the skip connection's gradient and the
signs of feature matching added too, which in the other backends are passes of their own. On a GPU at the sizes of the
decoder of Stable Diffusion for latents of 64 x 64, on a CPU for 16 x 16, and there contiguous images as well, in which
vectors run along planes. `least_bytes` is what has to move if nothing is kept but x: 3 passes over an image forward;
backward 5, the addend's, and a quarter of a byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.ops._direct import call
from tests.support import samples

from . import memory
from .machine import compile_missing, default_device
from .timing import check_gradients, measure

DEVICE = default_device()
GROUPS = 32
SIZES: dict[str, samples.Shape] = {"small": (2, 64, 8, 8)}
SIZES |= (
    {"512 x 64": (2, 512, 64, 64), "512 x 256": (2, 512, 256, 256), "256 x 512": (2, 256, 512, 512)}
    if DEVICE == "cuda"
    else {"512 x 16": (2, 512, 16, 16), "512 x 64": (2, 512, 64, 64), "256 x 128": (2, 256, 128, 128)}
)
DTYPES = [torch.bfloat16, torch.float32] if DEVICE == "cuda" else [torch.float32]
BACKENDS = ("eager", "torch.compile", "ldp_fast")
PARTS = ("forward", "both", "decoder")
LAYOUTS = ("channels_last",) if DEVICE == "cuda" else ("channels_last", "contiguous")
# Signs are packed in the order of channels-last images.
CASES = [(part, layout) for part in PARTS for layout in LAYOUTS if (part, layout) != ("decoder", "contiguous")]


def textbook(part: str, sample: dict[str, Any], added: Tensor) -> Callable[[], Tensor]:
    """Output, or gradient, of the textbook's lines; `added` is ± the signs, as numbers."""
    x, weight, bias = sample["x"].requires_grad_(part != "forward"), sample["weight"], sample["bias"]

    def run() -> Tensor:
        y = F.silu(F.group_norm(x, GROUPS, weight, bias, samples.group_norm_silu.EPS))
        if part == "forward":
            return y
        (grad,) = torch.autograd.grad(y, x, sample["grad"])
        return grad + sample["addend"] + added * 0.5 if part == "decoder" else grad

    return run


def compiled(part: str, sample: dict[str, Any], added: Tensor) -> Callable[[], Tensor]:
    if reason := compile_missing(DEVICE):
        pytest.skip(reason)
    torch._dynamo.reset()
    x, weight, bias = sample["x"].requires_grad_(part != "forward"), sample["weight"], sample["bias"]
    layer = torch.compile(
        lambda x: F.silu(F.group_norm(x, GROUPS, weight, bias, samples.group_norm_silu.EPS)),
        fullgraph=True,
        dynamic=False,
    )
    add = torch.compile(lambda grad: grad + sample["addend"] + added * 0.5, fullgraph=True, dynamic=False)

    def run() -> Tensor:
        y = layer(x)
        if part == "forward":
            return y
        (grad,) = torch.autograd.grad(y, x, sample["grad"])
        return add(grad) if part == "decoder" else grad

    return run


def ours(part: str, sample: dict[str, Any], packed: Tensor) -> Callable[[], Tensor]:
    x, affine = sample["x"], (sample["weight"], sample["bias"])
    more = (sample["addend"], packed, 0.5) if part == "decoder" else (None, None, 0.0)

    def run() -> Tensor:
        arguments = (*call("group_norm_moments", x, GROUPS, samples.group_norm_silu.EPS), *affine, True)
        y = call("group_norm_silu", x, *arguments)
        return y if part == "forward" else call("group_norm_silu_backward", sample["grad"], x, *arguments, *more)

    return run


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """On a CPU the allocator keeps what is freed: else a result of some MB is sometimes memory that the system clears
    first, which takes longer than the call, and chance decides whose."""
    memory.keep_freed()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("part", "layout"), CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_group_norm_silu(benchmark: Any, backend: str, part: str, layout: str, dtype: torch.dtype, size: str) -> None:
    sample = samples.group_norm_silu.inputs(SIZES[size], dtype=dtype, device=DEVICE, layout=layout)
    packed, signs = samples.group_norm_silu.signs(sample["x"])
    added = torch.cat([signs, -signs]).to(dtype).contiguous(memory_format=torch.channels_last)
    if backend == "ldp_fast":
        function = ours(part, sample, packed)
    else:
        function = (textbook if backend == "eager" else compiled)(part, sample, added)
    check_gradients([function().detach()], [textbook(part, sample, added)().detach()])
    image = sample["x"].nbytes
    lying = "" if layout == "channels_last" else f" {layout}"
    benchmark.group = f"group_norm_silu {part} {size}{lying} {dtype}"
    least = 3 * image + (5 * image if part != "forward" else 0) + (image + packed.nbytes if part == "decoder" else 0)
    benchmark.extra_info |= {"backend": backend, "elements": sample["x"].numel(), "least_bytes": least}
    measure(benchmark, function, DEVICE, rounds=50, warmup_rounds=3)
