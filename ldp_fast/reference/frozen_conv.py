"""3×3 convolutions with frozen weights, as the decoder uses them: the definition.

    same                  conv3×3(x), stride 1, padding 1
    same_transposed       its gradient to x: from [B, O, H, W] to [B, I, H, W]
    upsample              conv3×3 of x enlarged twofold (nearest neighbour)
    upsample_transposed   its gradient to x: from [B, O, 2H, 2W] to [B, I, H, W]

`fold_upsample` makes of the third one transposed convolution, exact but for rounding.
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
    """
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
