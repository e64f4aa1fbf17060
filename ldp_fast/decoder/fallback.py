"""Blocks that are not known by hand: run as they are, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layers import Layer, Saved, Signs


class AutogradLayer(Layer):
    """A module of one tensor argument, its parameters without a gradient although it is left as it was found.

    Keeps the module's graph. With `scaling` it takes latents and divides them by it, adding `shift`, in float32.
    """

    def __init__(
        self,
        module: nn.Module,
        reason: str,
        dtype: torch.dtype,
        *,
        enlarges: int = 1,
        scaling: float | None = None,
        shift: float = 0.0,
    ):
        self.module, self.fallback, self.enlarges, self.dtype = module, reason, enlarges, dtype
        self.scaling, self.shift = scaling, shift

    def _call(self, x: Tensor) -> Tensor:
        if self.scaling is not None:
            x = x / self.scaling + self.shift
        x = x.to(self.dtype)
        # Looked up at each call: the host may freeze its VAE after this object was made.
        if any(p.requires_grad for p in self.module.parameters()):
            frozen = {name: p.detach() for name, p in self.module.named_parameters()}
            return torch.func.functional_call(self.module, frozen, (x,))
        return self.module(x)

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self._call(leaf)
        return y.detach().contiguous(memory_format=torch.channels_last), (leaf, y)

    def infer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._call(x).contiguous(memory_format=torch.channels_last)

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        leaf, y = saved
        # Retained for a second backward; it is freed with `saved`.
        (result,) = torch.autograd.grad(y, leaf, grad, retain_graph=True)
        result = result.contiguous(memory_format=torch.channels_last)
        return result if signs is None else signs.added(result)
