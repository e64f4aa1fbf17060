"""The decoder's 3×3 convolutions without weight gradients, forward and to the input: PyTorch's direct ones, ours.

    pytest benchmarks/bench_frozen_conv.py

`same` is conv2d, `upsample` conv2d of the enlarged image; the transposed kinds are their gradients to the input, the
baseline's by autograd's own call without a weight gradient. Baselines: PyTorch in its default layout and channels-last;
for the upsampling also "folded", one transposed convolution of stride 2 (channels-last), which is what the decoder does
where there is no Winograd. On a CPU at the sizes of Stable Diffusion's decoder for latents of 16 × 16 and 32 × 32, on a
GPU for 64 × 64, where ours is the reference. `multiplications` are the definition's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ldp_fast.ops  # noqa: F401  brings torch.ops.ldp_fast.frozen_conv into being
from ldp_fast.reference.frozen_conv import fold_upsample
from tests.support import samples

from .machine import default_device
from .timing import check_gradients, measure

DEVICE = default_device()
# Channels in and out, and the side of the image that the convolution (or the upsampling) takes.
SIZES = {"small": (32, 32, 8)}
SIZES |= (
    {"512, 64 x 64": (512, 512, 64), "512, 128 x 128": (512, 512, 128), "256, 256 x 256": (256, 256, 256)}
    if DEVICE == "cuda"
    else {"512, 16 x 16": (512, 512, 16), "512, 32 x 32": (512, 512, 32), "256, 64 x 64": (256, 256, 64)}
)
DTYPES = [torch.bfloat16, torch.float32] if DEVICE == "cuda" else [torch.float32]
BACKENDS = ("eager", "eager, channels-last", "folded, channels-last", "ldp_fast")


def direct(x: Tensor, weight: Tensor, kind: str) -> Tensor:
    """As PyTorch computes it; the layout is the arguments'."""
    if kind == "same":
        return F.conv2d(x, weight, padding=1)
    if kind == "upsample":
        return F.conv2d(F.interpolate(x, scale_factor=2.0), weight, padding=1)
    size = (x.shape[0], weight.shape[1], *x.shape[2:])
    grad = torch.nn.grad.conv2d_input(size, weight, x, padding=1)
    if kind == "same_transposed":
        return grad
    return torch.ops.aten.upsample_nearest2d_backward(
        grad, [x.shape[2], x.shape[3]], [*size[:2], x.shape[2] // 2, x.shape[3] // 2], 2.0, 2.0
    )


def function_of(backend: str, sample: dict[str, Any]) -> Callable[[], Tensor]:
    x, weight, kind = sample["x"], sample["weight"], sample["kind"]
    if backend == "ldp_fast":
        return lambda: torch.ops.ldp_fast.frozen_conv(**sample)
    layout = torch.contiguous_format if backend == "eager" else torch.channels_last
    x, weight = (t.contiguous(memory_format=layout) for t in (x, weight))
    if backend.startswith("eager"):
        return lambda: direct(x, weight, kind)
    if not kind.startswith("upsample"):
        pytest.skip("nothing to fold in a convolution without upsampling")
    folded = fold_upsample(weight).contiguous(memory_format=layout)
    if kind == "upsample":
        return lambda: F.conv_transpose2d(x, folded, stride=2, padding=1)
    return lambda: F.conv2d(x, folded, stride=2, padding=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_conv(benchmark: Any, backend: str, kind: str, dtype: torch.dtype, size: str) -> None:
    into, out, side = SIZES[size]
    sample = samples.frozen_conv.inputs(kind, (1, into, side, side), out, dtype=dtype, device=DEVICE)
    function = function_of(backend, sample)
    check_gradients([function()], [direct(sample["x"], sample["weight"], kind)])
    benchmark.group = f"frozen_conv {kind} {size} {dtype}"
    enlarged = 4 if kind.startswith("upsample") else 1
    multiplications = 9 * into * out * side * side * enlarged
    benchmark.extra_info |= {"backend": backend, "shape": [1, into, side, side], "multiplications": multiplications}
    measure(benchmark, function, DEVICE, rounds=50 if DEVICE == "cuda" else 7, warmup_rounds=2)
