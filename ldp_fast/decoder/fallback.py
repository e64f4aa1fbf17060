"""Blocks that are not known by hand: run as they are, differentiated by autograd."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .derive import once
from .layers import Layer
from .pieces import Saved, Signs, last
from .units import LatentUnits

# torch.func.functional_call puts other tensors into a module for the time of the call: one thread at a time.
SWAPPING = threading.RLock()


def in_dtype(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A module's parameters and buffers by name, without their graphs, those of floating point in a precision.

    float8 is a storage format: its owner's hooks convert it, and it is left to them.
    """

    def converted(x: Tensor) -> Tensor:
        # Autograd will not have tensors of inference mode.
        x = x.detach().clone() if x.is_inference() else x.detach()
        return x.to(dtype) if x.is_floating_point() and x.element_size() > 1 else x

    with torch.no_grad(), torch.inference_mode(False):
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: converted(x) for name, x in named}


def _as_it_is(module: nn.Module, dtype: torch.dtype) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return not any(
        x.requires_grad or x.is_inference() or (x.is_floating_point() and x.element_size() > 1 and x.dtype != dtype)
        for x in tensors
    )


class AutogradLayer(Layer):
    """A module of one tensor argument, its parameters without a gradient although it is left as it was found.

    Keeps the module's graph. With `units` it takes the diffusion model's latents.

    Weights that want gradients, or have another precision, are converted and put into the module for the time of the
    call. Passes of ours wait for each other; another thread of the host's that calls the VAE itself does not, and would
    compute with the converted weights. A frozen VAE in the decoder's precision is called as it is.
    """

    def __init__(
        self,
        module: nn.Module,
        reason: str,
        dtype: torch.dtype,
        *,
        enlarges: int = 1,
        units: LatentUnits | None = None,
    ):
        self.module, self.fallback, self.enlarges, self.dtype = module, reason, enlarges, dtype
        self.units = units

    def called(self) -> Iterable[nn.Module]:
        return self.module.modules()

    def _call(self, x: Tensor) -> Tensor:
        if self.units is not None:
            x = self.units.to_vae(x)
        x = x.to(self.dtype)
        # Looked up at each call: the host may freeze or convert its VAE after this object was made.
        if _as_it_is(self.module, self.dtype):
            return self.module(x)
        weights = once(self, "weights", lambda: in_dtype(self.module, self.dtype))
        with SWAPPING:
            return torch.func.functional_call(self.module, weights, (x,))

    def forward(self, x: Tensor) -> tuple[Tensor, Saved]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            y = self._call(leaf)
        return last(y.detach()), (leaf, y)

    def infer(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return last(self._call(x))

    def backward(self, grad: Tensor, saved: Saved, signs: Signs | None = None) -> Tensor:
        leaf, y = saved
        # Retained for a second backward; it is freed with `saved`.
        (result,) = torch.autograd.grad(y, leaf, grad, retain_graph=True)
        result = last(result)
        return result if signs is None else signs.added(result)
