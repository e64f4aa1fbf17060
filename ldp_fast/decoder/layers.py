"""The layers that KL decoders are made of, forward and backward by hand, with a gradient to the input only.

A layer's `forward` returns its output and what its `backward` needs, a flat tuple of tensors; nothing is kept for a
gradient of weights. All tensors are channels-last. `Signs` is the part of feature matching that belongs to a layer's
input, where that is a level: it is added in the pass that writes the input's gradient.

C: channels. G: groups of a group norm. x: a layer's input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..ops import frozen_conv as conv_op
from ..ops import group_norm_silu as _registered  # noqa: F401  brings torch.ops.ldp_fast.group_norm_silu into being
from ..ops._library import use_native
from ..reference.frozen_conv import fold_upsample

Saved = tuple[Tensor, ...]
T = TypeVar("T")
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


class Layer:
    """One step of the decoder.

    Attributes:
        kept: elements that `forward` keeps for the backward beyond its input, per pixel of its input.
        enlarges: the factor from the input's side to the output's.
        remembers: whether its backward needs anything of the forward.
        fallback: why autograd does this layer; empty for the layers by hand.
    """

    kept = 0
    remembers = True
    enlarges = 1
    fallback = ""

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        raise NotImplementedError

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        raise NotImplementedError

    def infer(self, x: Tensor) -> Tensor:
        """The output alone."""
        return self.forward(x)[0]

    def again(self, x: Tensor) -> Saved:
        """What the backward needs alone, from the input."""
        return self.forward(x)[1]


class Derived(Generic[T]):
    """Something computed from frozen parameters, made again when one of them has changed, moved or been replaced.

    What is changed in place through `.data` or `.numpy()` is not seen: no version is counted up.
    """

    def __init__(self, make: Callable[..., T], parameters: Callable[[], tuple[Tensor | None, ...]]):
        self._make, self._parameters = make, parameters
        self._key: Any = None
        self._value: T

    def __call__(self) -> T:
        parameters = self._parameters()
        key = [
            # The reference keeps the storage's identity, not its memory: an address alone may be given out again.
            None
            if p is None
            else (
                StorageWeakRef(p.untyped_storage()),
                p.data_ptr(),
                p.dtype,
                p.device,
                0 if p.is_inference() else p._version,
            )
            for p in parameters
        ]
        if key != self._key:
            with torch.no_grad(), torch.inference_mode(False):
                self._value = self._make(*(None if p is None else p.detach() for p in parameters))
            self._key = key
        return self._value


class Conv:
    """A 3×3 convolution of padding 1 as a layer uses it, after silu(group norm) or not; `upsample`: ×2 before it."""

    def __init__(self, module: nn.Conv2d, *, upsample: bool = False):
        self.module, self.upsample = module, upsample
        self._weight = Derived(lambda w: _last(fold_upsample(w) if upsample else w), lambda: (module.weight,))
        self._kinds = ("upsample", "upsample_transposed") if upsample else ("same", "same_transposed")

    def native(self, x: Tensor) -> bool:
        """Whether the operator of csrc serves x; else the convolutions are torch's."""
        return conv_op.winograd(x, self.module.weight, self._kinds[0]) and use_native("cpu", {x.dtype})

    def forward(
        self, x: Tensor, bias: Tensor | None, norm: Norm | None, moments: Saved, addend: Tensor | None
    ) -> Tensor:
        if self.native(x):
            scale, shift = (None, None) if norm is None else norm.folded(moments)
            return torch.ops.ldp_fast.frozen_conv(
                x, self.module.weight.detach(), bias, scale, shift, addend, self._kinds[0]
            )
        if norm is not None:
            x = norm.forward(x, moments)
        if self.upsample:
            y = F.conv_transpose2d(x, self._weight(), bias, stride=2, padding=1)
        else:
            y = F.conv2d(x, self._weight(), bias, padding=1)
        return _last(y if addend is None else y.add_(addend))

    def backward(self, grad: Tensor) -> Tensor:
        if self.native(grad):
            weight = self.module.weight.detach()
            return torch.ops.ldp_fast.frozen_conv(grad, weight, None, None, None, None, self._kinds[1])
        if self.upsample:
            return _last(F.conv2d(grad, self._weight(), None, stride=2, padding=1))
        return _last(F.conv_transpose2d(grad, self._weight(), None, padding=1))


class Norm:
    """A group norm and, unless `silu` is False, SiLU; affine folded in, statistics in float32."""

    def __init__(self, module: nn.GroupNorm, *, silu: bool = True):
        self.module, self.silu = module, silu

    def moments(self, x: Tensor) -> Saved:
        """Mean and reciprocal standard deviation, two [B, G]."""
        return torch.ops.ldp_fast.group_norm_moments(x, self.module.num_groups, self.module.eps)

    def _affine(self) -> tuple[Tensor | None, Tensor | None]:
        weight, bias = self.module.weight, self.module.bias
        return (None if weight is None else weight.detach(), None if bias is None else bias.detach())

    def folded(self, moments: Saved) -> tuple[Tensor, Tensor]:
        """The whole norm as scale·x + shift, two [B, C]."""
        mean, rstd = (m.repeat_interleave(self.module.num_channels // self.module.num_groups, 1) for m in moments)
        weight, bias = self._affine()
        scale = rstd if weight is None else rstd * weight
        shift = -mean * scale
        return scale, shift if bias is None else shift + bias

    def forward(self, x: Tensor, moments: Saved) -> Tensor:
        return torch.ops.ldp_fast.group_norm_silu(x, *moments, *self._affine(), self.silu)

    def backward(self, grad: Tensor, x: Tensor, moments: Saved, addend: Tensor | None, signs: Signs | None) -> Tensor:
        packed, weight = (None, 0.0) if signs is None else (signs.packed, signs.weight)
        return torch.ops.ldp_fast.group_norm_silu_backward(
            grad, x, *moments, *self._affine(), self.silu, addend, packed, weight
        )


class Resnet(Layer):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the skip through a 1×1 convolution where channels change.

    The 1×1 convolution's product is added to the other branch's result in place, its bias to the other's bias. Kept: x,
    the first convolution's result, and the four moments.
    """

    def __init__(
        self, norm1: nn.GroupNorm, conv1: nn.Conv2d, norm2: nn.GroupNorm, conv2: nn.Conv2d, skip: nn.Conv2d | None
    ):
        self.norm1, self.norm2 = Norm(norm1), Norm(norm2)
        self.conv1, self.conv2, self.skip = Conv(conv1), Conv(conv2), skip
        self.kept = conv1.out_channels

        def total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return a if b is None else b if a is None else a + b

        self._bias2 = Derived(total, lambda: (conv2.bias, None if skip is None else skip.bias))

    def again(self, x: Tensor) -> Saved:
        first = self.norm1.moments(x)
        h = self.conv1.forward(x, _bias(self.conv1.module), self.norm1, first, None)
        return (x, h, *first, *self.norm2.moments(h))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved = self.again(x)
        h, second = saved[1], saved[4:]
        y = self.conv2.forward(h, self._bias2(), self.norm2, second, x if self.skip is None else None)
        if self.skip is not None:
            _rows(y).addmm_(_rows(x), self.skip.weight.detach().flatten(1).t())
        return y, saved

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        x, h, *moments = saved
        inner = self.norm2.backward(self.conv2.backward(grad), h, tuple(moments[2:]), None, None)
        inner = self.conv1.backward(inner)
        addend = grad
        if self.skip is not None:
            addend = _image(_rows(grad) @ self.skip.weight.detach().flatten(1), grad)
        return self.norm1.backward(inner, x, tuple(moments[:2]), addend, signs)


class Attention(Layer):
    """x + project(attention(norm(x))), through scaled_dot_product_attention, whose own backward is autograd's.

    Kept: x, the moments, query, key and value, and the attention's result with its graph.
    """

    def __init__(
        self, norm: nn.GroupNorm, query: nn.Module, key: nn.Module, value: nn.Module, out: nn.Module, heads: int
    ):
        self.norm, self.heads = Norm(norm, silu=False), heads
        parts: list[Any] = [query, key, value]
        self._weight = Derived(lambda *w: torch.cat([x.flatten(1) for x in w]), lambda: tuple(p.weight for p in parts))
        self._bias = Derived(lambda *b: None if b[0] is None else torch.cat(b), lambda: tuple(p.bias for p in parts))
        self.out: Any = out
        self.kept = 4 * norm.num_channels

    def again(self, x: Tensor) -> Saved:
        batch, _, height, width = x.shape
        moments = self.norm.moments(x)
        together = F.linear(_rows(self.norm.forward(x, moments)), self._weight(), self._bias())
        split = together.view(batch, height * width, 3, self.heads, -1)
        parts = [split[:, :, i].transpose(1, 2).detach().requires_grad_() for i in range(3)]
        with torch.enable_grad():
            attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return (x, *moments, *parts, attended)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved = self.again(x)
        flat = saved[-1].detach().transpose(1, 2).flatten(0, 1).flatten(1)
        y = _image(torch.addmm(_rows(x), flat, self.out.weight.detach().flatten(1).t()), x)
        if self.out.bias is not None:
            y += self.out.bias.detach()[:, None, None]
        return y, saved

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        x, mean, rstd, *parts, attended = saved
        batch, heads, pixels, width = attended.shape
        inner = (_rows(grad) @ self.out.weight.detach().flatten(1)).view(batch, pixels, heads, width).transpose(1, 2)
        # Retained for a second backward; it is freed with `saved`.
        grads = torch.autograd.grad(attended, parts, inner, retain_graph=True)
        together = torch.stack([g.transpose(1, 2) for g in grads], 2).reshape(batch * pixels, -1)
        return self.norm.backward(_image(together @ self._weight(), x), x, (mean, rstd), grad, signs)


class Upsample(Layer):
    """Nearest neighbour ×2 and a 3×3 convolution, as one. Keeps nothing."""

    enlarges, remembers = 2, False

    def __init__(self, conv: nn.Conv2d):
        self.conv = Conv(conv, upsample=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.conv.forward(x, _bias(self.conv.module), None, (), None), ()

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        grad = self.conv.backward(grad)
        return grad if signs is None else signs.added(grad)


class Entry(Layer):
    """latents / scaling_factor + shift_factor, post_quant_conv and the first convolution, folded into one convolution.

    A bias before a padded convolution is no bias after it at the border, where the padding has none: what is constant
    goes through an input channel of ones, whose padding is zero as well. Keeps nothing; takes and gives float32.
    """

    remembers = False

    def __init__(self, conv: nn.Conv2d, post_quant: nn.Conv2d | None, scaling: float, shift: float, dtype: torch.dtype):
        self.conv, self.scaling, self.dtype = conv, scaling, dtype
        self.channels = conv.in_channels if post_quant is None else post_quant.in_channels
        self.constant = shift != 0 or (post_quant is not None and post_quant.bias is not None)

        def fold(weight: Tensor, mix: Tensor | None, bias: Tensor | None, scaling: float) -> tuple[Tensor, Tensor]:
            inner = weight.shape[1]
            square = torch.eye(inner, dtype=torch.float64, device=weight.device) if mix is None else mix.double()
            square = square.flatten(1)
            constant = shift * square.sum(1) + (0.0 if bias is None else bias.double())
            taps = weight.double().transpose(1, 3)  # [O, 3, 3, I], the inner channels last
            return (taps @ (square / scaling)).transpose(1, 3), (taps @ constant[:, None]).transpose(1, 3)

        def forwards(weight: Tensor, mix: Tensor | None, bias: Tensor | None) -> Tensor:
            parts = fold(weight, mix, bias, scaling)
            return _last(torch.cat(parts if self.constant else parts[:1], 1).to(dtype))

        def backwards(weight: Tensor, mix: Tensor | None) -> Tensor:
            # The scaling is left out: in float16 the gradient needs its headroom.
            return _last(fold(weight, mix, None, 1.0)[0].to(dtype))

        def parameters() -> tuple[Tensor | None, ...]:
            return (
                (conv.weight, None, None) if post_quant is None else (conv.weight, post_quant.weight, post_quant.bias)
            )

        self._forwards = Derived(forwards, parameters)
        self._backwards = Derived(backwards, lambda: parameters()[:2])

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        if x.shape[1] != self.channels:
            raise ValueError(
                f"FrozenDecoder: latents: expected the decoder's {self.channels} channels, got shape {list(x.shape)}"
            )
        if self.constant:
            x = torch.cat([x, x.new_ones((x.shape[0], 1, *x.shape[2:]))], 1)
        x = x.to(self.dtype, memory_format=CHANNELS_LAST)
        return _last(F.conv2d(x, self._forwards(), _bias(self.conv), padding=1)), ()

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        grad = F.conv_transpose2d(grad, self._backwards(), None, padding=1)
        return grad.to(torch.promote_types(grad.dtype, torch.float32)) / self.scaling


def _bias(module: nn.Conv2d) -> Tensor | None:
    return None if module.bias is None else module.bias.detach()


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=CHANNELS_LAST)


def _rows(x: Tensor) -> Tensor:
    """[B·H·W, C], a view of a channels-last image."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """[B, C, H, W], channels-last, of rows [B·H·W, C]."""
    batch, _, height, width = like.shape
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)
