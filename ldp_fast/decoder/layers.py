"""The layers that KL decoders are made of, forward and backward by hand, with a gradient to the input only.

A layer's `forward` returns its output and what its `backward` needs, a flat tuple of tensors; nothing is kept for a
gradient of weights. All tensors are channels-last. `Signs` is the part of feature matching that belongs to a layer's
input, where that is a level: it is added in the pass that writes the input's gradient.

Layers hold modules, and read their parameters in every pass, in the decoder's precision (derive.py): whatever happens
to the weights between two passes, and however, the next pass sees it.

C: channels. G: groups of a group norm. x: a layer's input.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .attention import attend, gradients
from .derive import cast, once
from .narrow import add_matmul_, conv2d, conv_transpose2d, linear, matmul
from .pieces import CHANNELS_LAST, Conv, Norm, Saved, Signs, image, last, rows
from .units import LatentUnits


class Layer:
    """One step of the decoder.

    Attributes:
        kept: elements that `forward` keeps for the backward beyond its input, per pixel of its input.
        enlarges: the factor from the input's side to the output's.
        remembers: whether its backward needs anything of the forward.
        fallback: why autograd does this layer; empty for the layers by hand.
        modules: whose parameters it reads by hand.
        dtype: precision of its arithmetic.
    """

    kept = 0
    remembers = True
    enlarges = 1
    fallback = ""
    modules: tuple[nn.Module, ...] = ()
    dtype: torch.dtype

    def called(self) -> Iterable[nn.Module]:
        """The modules whose own code runs; none of a layer by hand."""
        return ()

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


class Resnet(Layer):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the skip through a 1×1 convolution where channels change.

    The 1×1 convolution's product is added to the other branch's result in place, its bias to the other's bias. Kept: x,
    the first convolution's result, and the four moments.
    """

    def __init__(
        self,
        norm1: nn.GroupNorm,
        conv1: nn.Conv2d,
        norm2: nn.GroupNorm,
        conv2: nn.Conv2d,
        skip: nn.Conv2d | None,
        dtype: torch.dtype,
    ):
        self.norm1, self.norm2 = Norm(norm1, dtype), Norm(norm2, dtype)
        self.conv1, self.conv2, self.dtype = Conv(conv1, dtype), Conv(conv2, dtype), dtype
        self.skip = skip
        self.kept = conv1.out_channels
        self.modules = tuple(m for m in (norm1, conv1, norm2, conv2, skip) if m is not None)

    def _bias2(self) -> Tensor | None:
        def total() -> Tensor | None:
            a = self.conv2.bias()
            b = None if self.skip is None else cast(self, "skip's bias", self.skip.bias, self.dtype)
            return a if b is None else b if a is None else a + b

        return once(self, "bias", total)

    def _through(self, skip: nn.Conv2d) -> Tensor:
        """The skip's matrix, [O, I]."""
        weight = cast(self, "skip", skip.weight, self.dtype)
        assert weight is not None
        return weight.flatten(1)

    def again(self, x: Tensor) -> Saved:
        first = self.norm1.moments(x)
        h = self.conv1.forward(x, self.conv1.bias(), self.norm1, first, None)
        return (x, h, *first, *self.norm2.moments(h))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved = self.again(x)
        h, second = saved[1], saved[4:]
        y = self.conv2.forward(h, self._bias2(), self.norm2, second, x if self.skip is None else None)
        if self.skip is not None:
            add_matmul_(rows(y), rows(x), self._through(self.skip).t())
        return y, saved

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        x, h, *moments = saved
        inner = self.norm2.backward(self.conv2.backward(grad), h, tuple(moments[2:]), None, None)
        inner = self.conv1.backward(inner)
        addend = grad
        if self.skip is not None:
            addend = image(matmul(rows(grad), self._through(self.skip)), grad)
        return self.norm1.backward(inner, x, tuple(moments[:2]), addend, signs)


class Attention(Layer):
    """x + project(attention(norm(x))), see attention.py.

    Kept: x, the moments, query, key and value, and the attention's result.
    """

    def __init__(
        self,
        norm: nn.GroupNorm,
        query: nn.Module,
        key: nn.Module,
        value: nn.Module,
        out: nn.Module,
        heads: int,
        dtype: torch.dtype,
    ):
        self.norm, self.heads, self.dtype = Norm(norm, dtype, silu=False), heads, dtype
        self._parts: list[Any] = [query, key, value]
        self._out: Any = out
        self.kept = 4 * norm.num_channels
        self.modules = (norm, query, key, value, out)

    def _weight(self) -> Tensor:
        """Of query, key and value together, [3·O, I]."""
        return once(self, "weight", lambda: torch.cat([p.weight.flatten(1).to(self.dtype) for p in self._parts]))

    def _bias(self) -> Tensor | None:
        biases = [p.bias for p in self._parts]
        if any(b is None for b in biases):
            return None
        return once(self, "bias", lambda: torch.cat([b.to(self.dtype) for b in biases]))

    def _project(self) -> Tensor:
        weight = cast(self, "out", self._out.weight, self.dtype)
        assert weight is not None
        return weight.flatten(1)

    def again(self, x: Tensor) -> Saved:
        batch, _, height, width = x.shape
        moments = self.norm.moments(x)
        together = linear(rows(self.norm.forward(x, moments)), self._weight(), self._bias())
        split = together.view(batch, height * width, 3, self.heads, together.shape[1] // (3 * self.heads))
        query, key, value = split.transpose(1, 3).unbind(2)
        return (x, *moments, *attend(query, key, value))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        saved = self.again(x)
        flat = saved[-1].detach().transpose(1, 2).flatten(0, 1).flatten(1)
        y = image(rows(x).clone(), x)
        add_matmul_(rows(y), flat, self._project().t())
        bias = cast(self, "out's bias", self._out.bias, self.dtype)
        if bias is not None:
            y += bias[:, None, None]
        return y, saved

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        x, mean, rstd, *kept = saved
        batch, heads, pixels, width = kept[-1].shape
        inner = matmul(rows(grad), self._project()).view(batch, pixels, heads, width).transpose(1, 2)
        grads = gradients(inner, tuple(kept))
        together = torch.stack([g.transpose(1, 2) for g in grads], 2).reshape(batch * pixels, 3 * heads * width)
        return self.norm.backward(image(matmul(together, self._weight()), x), x, (mean, rstd), grad, signs)


class Upsample(Layer):
    """Nearest neighbour ×2 and a 3×3 convolution, as one. Keeps nothing."""

    enlarges, remembers = 2, False

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype):
        self.conv, self.dtype = Conv(conv, dtype, upsample=True), dtype
        self.modules = (conv,)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        return self.conv.forward(x, self.conv.bias(), None, (), None), ()

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        grad = self.conv.backward(grad)
        return grad if signs is None else signs.added(grad)


class Entry(Layer):
    """The way into the VAE's units (units.py), post_quant_conv and the first convolution, folded into one convolution.

    A bias before a padded convolution is not a bias after it at the border, where the padding has none: what is
    constant goes through an input channel of ones, whose padding is zero as well. Keeps nothing; takes and gives
    float32.
    """

    remembers = False

    def __init__(self, conv: nn.Conv2d, post_quant: nn.Conv2d | None, units: LatentUnits, dtype: torch.dtype):
        self.conv, self.post_quant, self.units, self.dtype = conv, post_quant, units, dtype
        self.channels = conv.in_channels if post_quant is None else post_quant.in_channels
        self.modules = (conv,) if post_quant is None else (conv, post_quant)

    def _constant(self) -> bool:
        return self.units.adds or (self.post_quant is not None and self.post_quant.bias is not None)

    def _fold(self, *, gain: bool, constant: bool) -> Tensor:
        """The taps, [O, C, 3, 3] or, with those of the constant, [O, C + 1, 3, 3]; in float64 until the end."""
        weight = self.conv.weight.double()
        square = torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
        if self.post_quant is not None:
            square = self.post_quant.weight.double().flatten(1)
        taps = weight.transpose(1, 3)  # [O, 3, 3, I], the inner channels last
        scaled = square * _row(self.units.gain(square)) if gain else square
        parts = [(taps @ scaled).transpose(1, 3)]
        if constant:
            added = (square * _row(self.units.offset(square))).sum(1)
            if self.post_quant is not None and self.post_quant.bias is not None:
                added = added + self.post_quant.bias.double()
            parts.append((taps @ added[:, None]).transpose(1, 3))
        return last(torch.cat(parts, 1).to(self.dtype))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        if x.shape[1] != self.channels:
            raise ValueError(
                f"FrozenDecoder: latents: expected the decoder's {self.channels} channels, got shape {list(x.shape)}"
            )
        self.units.check(x)
        constant = self._constant()
        if constant:
            x = torch.cat([x, x.new_ones((x.shape[0], 1, *x.shape[2:]))], 1)
        x = x.to(self.dtype, memory_format=CHANNELS_LAST)
        weight = once(self, "forward", lambda: self._fold(gain=True, constant=constant))
        return last(conv2d(x, weight, cast(self, "bias", self.conv.bias, self.dtype))), ()

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        # The gain comes after: in float16 the gradient needs its headroom.
        weight = once(self, "backward", lambda: self._fold(gain=False, constant=False))
        grad = conv_transpose2d(grad, weight)
        grad = grad.to(torch.promote_types(grad.dtype, torch.float32))
        return grad / self.units.scaling if not self.units.per_channel else grad * self.units.gain(grad)


def _row(values: Tensor | float) -> Tensor | float:
    """[1, C] of [C, 1, 1]."""
    return values.flatten() if isinstance(values, Tensor) else values
