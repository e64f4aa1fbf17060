"""What layers are made of: convolution, group norm, the signs of a level, and images as rows of a matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import call, use_native
from ..ops import frozen_conv as conv_op
from ..ops import group_norm_silu as _registered  # noqa: F401  so that `call` finds it
from ..reference.frozen_conv import fold_upsample
from .choice import winograd_is_faster
from .derive import cast, once
from .narrow import convolves_in_float32

Saved = tuple[Tensor, ...]
CHANNELS_LAST = torch.channels_last


class Signs(NamedTuple):
    """∂L/∂x of one level: `weight` times the packed signs of `feature_matching`, negated for the second half."""

    packed: Tensor
    weight: float
    samples: int

    def dense(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The same as a tensor, channels-last."""
        one = torch.ones((), device=device, dtype=torch.promote_types(dtype, torch.float32))
        batch, channels, height, width = shape
        (rows,) = torch.ops.ldp_fast.feature_matching_backward(
            one * self.weight,
            self.packed,
            [channels * height * width],
            self.samples,
            dtype,
            "sum",
            "sum",
            True,
            True,
            True,
        )
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def added(self, grad: Tensor) -> Tensor:
        """Adds it to a gradient, in place."""
        return grad.add_(self.dense(grad.shape, grad.dtype, grad.device))


class Conv:
    """A 3×3 convolution of padding 1 as a layer uses it, after silu(group norm) or not; `upsample`: ×2 before it."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype, *, upsample: bool = False):
        self.module, self.dtype, self.upsample = module, dtype, upsample
        self._kinds = ("upsample", "upsample_transposed") if upsample else ("same", "same_transposed")
        self._wide = Conv(module, torch.float32, upsample=upsample) if dtype.itemsize == 2 else None

    def weight(self) -> Tensor:
        """[O, I, 3, 3]."""
        found = cast(self, "weight", self.module.weight, self.dtype)
        assert found is not None
        return found

    def bias(self) -> Tensor | None:
        """[O] or None."""
        return cast(self, "bias", self.module.bias, self.dtype)

    def _for_torch(self) -> Tensor:
        return once(self, "torch", lambda: last(fold_upsample(self.weight()) if self.upsample else self.weight()))

    def native(self, x: Tensor, kind: str) -> bool:
        """Whether the operator of csrc serves x, and faster than torch's convolution, which is taken otherwise."""
        weight = self.weight()
        served = conv_op.winograd(x, weight, kind) and use_native("cpu", {x.dtype})
        return served and winograd_is_faster(x, weight, kind)

    def _in_float32(self, x: Tensor) -> Conv | None:
        """The same convolution in float32, where it is to be computed so although x is not (narrow.py)."""
        winograd = x.device.type == "cpu" and use_native("cpu", {torch.float32})
        wide = convolves_in_float32(x, self.module.weight, upsample=self.upsample, winograd=winograd)
        return self._wide if wide else None

    def forward(
        self, x: Tensor, bias: Tensor | None, norm: Norm | None, moments: Saved, addend: Tensor | None
    ) -> Tensor:
        if (wide := self._in_float32(x)) is not None:
            y = wide.forward(x.float(), None if bias is None else bias.float(), norm, moments, None).to(x.dtype)
            return last(y if addend is None else y.add_(addend))
        if self.native(x, self._kinds[0]):
            scale, shift = (None, None) if norm is None else norm.folded(moments)
            return call("frozen_conv", x, self.weight(), bias, scale, shift, addend, self._kinds[0])
        if norm is not None:
            x = norm.forward(x, moments)
        if self.upsample:
            y = F.conv_transpose2d(x, self._for_torch(), bias, stride=2, padding=1)
        else:
            y = F.conv2d(x, self._for_torch(), bias, padding=1)
        return last(y if addend is None else y.add_(addend))

    def backward(self, grad: Tensor) -> Tensor:
        if (wide := self._in_float32(grad)) is not None:
            return wide.backward(grad.float()).to(grad.dtype)
        if self.native(grad, self._kinds[1]):
            return call("frozen_conv", grad, self.weight(), None, None, None, None, self._kinds[1])
        if self.upsample:
            return last(F.conv2d(grad, self._for_torch(), None, stride=2, padding=1))
        return last(F.conv_transpose2d(grad, self._for_torch(), None, padding=1))


class Norm:
    """A group norm and, unless `silu` is False, SiLU; affine folded in, statistics in float32."""

    def __init__(self, module: nn.GroupNorm, dtype: torch.dtype, *, silu: bool = True):
        self.module, self.dtype, self.silu = module, dtype, silu

    def moments(self, x: Tensor) -> Saved:
        """Mean and reciprocal standard deviation, two [B, G]."""
        return call("group_norm_moments", x, self.module.num_groups, self.module.eps)

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        weight, bias = self.module.weight, self.module.bias
        return cast(self, "weight", weight, self.dtype), cast(self, "bias", bias, self.dtype)

    def folded(self, moments: Saved) -> tuple[Tensor, Tensor]:
        """The whole norm as scale·x + shift, two [B, C]."""
        mean, rstd = (m.repeat_interleave(self.module.num_channels // self.module.num_groups, 1) for m in moments)
        weight, bias = self._affine()
        scale = rstd if weight is None else rstd * weight
        shift = -mean * scale
        return scale, shift if bias is None else shift + bias

    def forward(self, x: Tensor, moments: Saved) -> Tensor:
        return call("group_norm_silu", x, *moments, *self._affine(), self.silu)

    def backward(self, grad: Tensor, x: Tensor, moments: Saved, addend: Tensor | None, signs: Signs | None) -> Tensor:
        packed, weight = (None, 0.0) if signs is None else (signs.packed, signs.weight)
        return call("group_norm_silu_backward", grad, x, *moments, *self._affine(), self.silu, addend, packed, weight)


def last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST)


def rows(x: Tensor) -> Tensor:
    """[B·H·W, C], a view of a channels-last image."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def image(rows: Tensor, like: Tensor) -> Tensor:
    """[B, C, H, W], channels-last, of rows [B·H·W, C]."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, rows.shape[1]).permute(0, 3, 1, 2)
