"""3×3 convolutions with frozen weights, as the decoder uses them: the definition.

    same                  conv3×3(x), stride 1, padding 1
    same_transposed       its gradient to x: from [B, O, H, W] to [B, I, H, W]
    upsample              conv3×3 of x enlarged twofold (nearest neighbour)
    upsample_transposed   its gradient to x: from [B, O, 2H, 2W] to [B, I, H, W]

`fold_upsample` makes of the third one transposed convolution, exact except for rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("same", "same_transposed", "upsample", "upsample_transposed")


def frozen_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    addend: Tensor | None,
    kind: str,
) -> Tensor:
    """The convolution of silu(scale·x + shift), plus bias and addend.

    Args:
        x: input, [B, I, H, W] ([B, O, …] for the transposed kinds).
        weight: of the convolution itself, [O, I, 3, 3], x's dtype.
        bias: [O], or None; None for the transposed kinds.
        scale: a group norm folded into one number a sample and channel, [B, I]; None takes x as it is.
        shift: [B, I], or None.
        addend: added to the result, its shape; or None.
        kind: one of `KINDS`.

    Returns:
        [B, O, H, W], [B, I, H, W], [B, O, 2H, 2W] or [B, I, H/2, W/2], channels-last, in x's dtype.

    Raises:
        ValueError: an unknown kind, or arguments that do not fit each other.
    """
    check_arguments(x, weight, bias, scale, shift, addend, kind)
    if scale is not None and shift is not None:
        compute = torch.promote_types(x.dtype, torch.float32)
        x = F.silu(x.to(compute) * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)
    if kind == "same":
        out = F.conv2d(x, weight, bias, padding=1)
    elif kind == "upsample":
        out = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    else:
        out = F.conv_transpose2d(x, weight, padding=1)
        if kind == "upsample_transposed":
            out = out.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5))
    if addend is not None:
        out = out + addend
    return out.contiguous(memory_format=torch.channels_last)


def check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    addend: Tensor | None,
    kind: str,
) -> tuple[int, int, int, int]:
    """Checks the arguments of `frozen_conv`, and returns the shape of its result."""
    if kind not in KINDS:
        raise ValueError(f"frozen_conv: kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    if x.dim() != 4 or 0 in x.shape[1:] or not x.is_floating_point():
        raise ValueError(
            "frozen_conv: x: expected a floating-point tensor [B, C, H, W] of at least one element a sample, "
            f"got {x.dtype} {list(x.shape)}"
        )
    batch, channels, height, width = x.shape
    out, into = weight.shape[:2] if weight.dim() == 4 else (0, 0)
    if kind.endswith("transposed"):
        out, into = into, out
    if tuple(weight.shape[2:]) != (3, 3) or into != channels or out == 0 or weight.dtype != x.dtype:
        raise ValueError(
            f"frozen_conv: weight: expected 3×3 taps for the {channels} channels of x ({kind}) in {x.dtype}, "
            f"got {weight.dtype} {list(weight.shape)}"
        )
    if kind == "upsample":
        height, width = 2 * height, 2 * width
    elif kind == "upsample_transposed":
        if height % 2 or width % 2:
            raise ValueError(f"frozen_conv: x: expected even height and width ({kind}), got shape {list(x.shape)}")
        height, width = height // 2, width // 2
    if bias is not None and kind.endswith("transposed"):
        raise ValueError(f"frozen_conv: bias: expected none ({kind}), got one")
    if (scale is None) != (shift is None):
        raise ValueError("frozen_conv: shift: expected both of scale and shift or neither, got one")
    shape, wide = (batch, out, height, width), torch.promote_types(x.dtype, torch.float32)
    for name, tensor, expected, dtypes in (
        ("bias", bias, (out,), (x.dtype,)),
        ("scale", scale, (batch, channels), (x.dtype, wide)),
        ("shift", shift, (batch, channels), (x.dtype, wide)),
        ("addend", addend, shape, (x.dtype,)),
    ):
        if tensor is not None and (tuple(tensor.shape) != expected or tensor.dtype not in dtypes):
            raise ValueError(
                f"frozen_conv: {name}: expected {dtypes[-1]} {list(expected)}, got {tensor.dtype} {list(tensor.shape)}"
            )
    return shape


def fold_upsample(weight: Tensor) -> Tensor:
    """Weights [I, O, 4, 4] of the transposed convolution (stride 2, padding 1) that enlarges twofold and convolves.

    In each axis output 2y + p of the enlarged image's convolution sees x[y - 1], x[y] (p = 0) or x[y], x[y + 1]
    (p = 1), with w0, w1 + w2 or w0 + w1, w2: k[y] = Σ_{a ∈ {0, 1}} w[a + 2 - y], with w zero outside of its taps. The
    sums are made in float64.
    """
    w = weight.double()
    for axis in (2, 3):
        first, middle, last = w.unbind(axis)
        w = torch.stack([last, middle + last, first + middle, first], axis)
    return w.transpose(0, 1).to(weight.dtype)
