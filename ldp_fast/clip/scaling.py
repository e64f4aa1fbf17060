"""Gradients through float16 networks, whatever the size of what comes from above."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Far from both ends of float16, which reaches from 6e-8 to 65504: gradients grow and shrink on their way.
TARGET = 16.0
# Below this a float32 gradient counts as zero, so that the factor stays finite.
SMALLEST = 2.0**-100


class GradientScale:
    """Makes the gradient of what lies between `enter` and `leave` of one size, and undoes that where it comes out.

        scale = GradientScale()
        embeddings = scale.leave(network(scale.enter(pixels).half()).float())

    Each row of the outgoing gradient (index of the first dimension) is multiplied by a power of two so that its largest
    magnitude is between `TARGET`/2 and `TARGET`, on the device; where it has gone through, it is divided by that again.
    So rows must not mix in between. Values stay as they are. A row that is not finite is not touched: it comes out as
    not finite, where a GradScaler sees it.
    """

    def __init__(self) -> None:
        self.factor: Tensor | None = None

    def enter(self, x: Tensor) -> Tensor:
        """The start of the part, [N, ...] float32."""
        return _Shrink.apply(x, self)

    def leave(self, x: Tensor) -> Tensor:
        """The end of the part, [N, ...] float32, the same N."""
        return _Enlarge.apply(x, self)


class _Enlarge(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, scale: GradientScale) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, GradientScale], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        largest = grad_output.detach().abs().flatten(1).amax(1).clamp(min=SMALLEST)
        # The mantissa over the number is a power of two, exactly.
        factor = TARGET * torch.frexp(largest).mantissa / largest
        ctx.scale.factor = torch.where(largest.isfinite(), factor, torch.ones_like(factor))
        return grad_output * _each(ctx.scale.factor, grad_output), None


class _Shrink(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, scale: GradientScale) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, GradientScale], output: Tensor) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        assert ctx.scale.factor is not None
        return grad_output / _each(ctx.scale.factor, grad_output), None


def _each(factor: Tensor, like: Tensor) -> Tensor:
    return factor.view(-1, *[1] * (like.ndim - 1))
