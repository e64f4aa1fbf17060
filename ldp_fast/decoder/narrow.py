"""Two-byte precisions on a CPU: which products are computed in them, and which in float32.

A processor that multiplies in bfloat16 does so in oneDNN, at about twice the rate of float32; Winograd's filtering in
float32 (csrc/frozen_conv) spares up to three quarters of the products, so that it is the faster one where an image is
large enough to pay for transforming the weights. One that cannot multiply in a precision has torch do it number by
number, five to thirty times slower than float32; there every product is float32's, and two bytes are how results are
stored.
"""

from __future__ import annotations

import functools
import platform

import torch
import torch.nn.functional as F
from torch import Tensor

# From so many pixels (of all samples) on, 3×3 convolutions of bfloat16 are faster by Winograd in float32, both
# conversions included; at a quarter of that torch is (two cores with AVX512-BF16). Upsampling never is.
WINOGRAD_PIXELS = 2048


def bfloat16_in_hardware() -> bool:
    """Whether this processor multiplies in bfloat16; where torch cannot say, oneDNN is asked."""
    if not _served("bf16"):
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        return any(getattr(torch.cpu, name, lambda: False)() for name in names)
    return True


def _served(name: str) -> bool:
    """Whether torch hands products of a precision to oneDNN, which it does not below AVX-512."""
    ask = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: False)
    return torch.backends.mkldnn.is_available() and bool(ask())


@functools.cache
def _in_hardware(dtype: torch.dtype) -> bool:
    return bfloat16_in_hardware() if dtype == torch.bfloat16 else _served("fp16")


@functools.cache
def _has_tiles() -> bool:
    """AMX has sixteen times the products of AVX-512's float32: more than Winograd spares."""
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def widened(x: Tensor) -> bool:
    """Whether products with x are to be computed in float32, because there is no hardware for its precision."""
    return x.device.type == "cpu" and x.dtype.itemsize == 2 and not _in_hardware(x.dtype)


def convolves_in_float32(x: Tensor, weight: Tensor, *, upsample: bool, winograd: bool) -> bool:
    """Whether a 3×3 convolution of x is faster with both conversions than in its own precision.

    Args:
        x: [B, I, H, W], or the gradient [B, O, H, W].
        weight: [O, I, 3, 3].
        upsample: whether the image is enlarged before.
        winograd: whether csrc serves float32 here.
    """
    if widened(x):
        return True
    return (
        x.device.type == "cpu"
        and x.dtype.itemsize == 2
        and winograd
        and not upsample
        and not _has_tiles()
        and weight.shape[0] % 16 == weight.shape[1] % 16 == 0
        and x.shape[0] * x.shape[2] * x.shape[3] >= WINOGRAD_PIXELS
    )


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in a's precision, the products where they are fastest."""
    return (a.float() @ b.float()).to(a.dtype) if widened(a) else a @ b


def add_matmul_(out: Tensor, a: Tensor, b: Tensor) -> None:
    """out += a @ b."""
    if widened(a):
        out.add_(matmul(a, b))
    else:
        out.addmm_(a, b)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x @ weightᵀ + bias, as `torch.nn.functional.linear`."""
    if not widened(x):
        return F.linear(x, weight, bias)
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3×3 convolution of padding 1."""
    if not widened(x):
        return F.conv2d(x, weight, bias, padding=1)
    return F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), padding=1).to(x.dtype)


def conv_transpose2d(grad: Tensor, weight: Tensor) -> Tensor:
    """Its gradient to the input."""
    if not widened(grad):
        return F.conv_transpose2d(grad, weight, None, padding=1)
    return F.conv_transpose2d(grad.float(), weight.float(), None, padding=1).to(grad.dtype)
