"""Forward and backward over the layers of a decoder, and how much of the forward is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from .derive import one_pass
from .free import free_bytes
from .layers import Layer
from .live import settings_of
from .pieces import Saved, Signs

Memory = Literal["auto", "save", "recompute"]


class Tape:
    """What a forward pass over layers kept, in their order; `back` takes it off again.

    With `recompute` a layer's input is all that is kept of it, and what its backward needs is computed once more.
    """

    def __init__(self, recompute: bool):
        self.recompute = recompute
        self.entries: list[tuple[Layer, Saved]] = []

    def forward(self, layer: Layer, x: Tensor) -> Tensor:
        """The layer's output."""
        if self.recompute and layer.remembers:
            self.entries.append((layer, (x,)))
            return layer.infer(x)
        y, saved = layer.forward(x)
        self.entries.append((layer, saved))
        return y

    def back(self, grad: Tensor, signs: Signs | None = None) -> Tensor:
        """The gradient to the last layer's input, with the signs of the level that this input is added."""
        layer, saved = self.entries.pop()
        if self.recompute and layer.remembers:
            saved = layer.again(*saved)
        return layer.backward(grad, saved, signs)


class Features(torch.autograd.Function):
    """Latents to features, differentiable in the latents once."""

    @staticmethod
    def forward(
        ctx: Any,
        latents: Tensor,
        stages: list[list[Layer]],
        levels: list[int],
        recompute: bool,
    ) -> tuple[Tensor, ...]:
        tape, x = Tape(recompute), latents
        features: list[Tensor] = []
        for index, layers in enumerate(stages):
            for layer in layers:
                x = tape.forward(layer, x)
            if index in levels:
                features.append(x)
        # A level that nobody used has no gradient, rather than zeros to multiply with what may not be finite.
        ctx.set_materialize_grads(False)
        ctx.stages, ctx.levels, ctx.recompute = stages, levels, recompute
        ctx.device = latents.device.type
        ctx.layers = [(layer, len(saved)) for layer, saved in tape.entries]
        ctx.weights = weights_of(stages)
        ctx.settings = settings_of(stages) if recompute else []
        # Not as an attribute: these are freed with the graph, and hooks on saved tensors see them.
        ctx.save_for_backward(*(t for _, saved in tape.entries for t in saved))
        return tuple(features)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        kept = list(ctx.saved_tensors)
        if not unchanged(ctx.weights, weights_of(ctx.stages)):
            raise RuntimeError(
                "FrozenDecoder.features: expected the VAE's weights in the backward as they were in the forward; one "
                "of those needed for the gradient has been replaced or modified by an inplace operation"
            )
        if ctx.recompute and ctx.settings != settings_of(ctx.stages):
            raise RuntimeError(
                "FrozenDecoder.features: expected the VAE in the backward as it was in the forward, because "
                "memory='recompute' computes its blocks again; their settings, hooks or modules have changed"
            )
        tape = Tape(ctx.recompute)
        for layer, count in ctx.layers:
            tape.entries.append((layer, tuple(kept[:count])))
            del kept[:count]
        of_levels = dict(zip(ctx.levels, grads, strict=True))
        grad: Tensor | None = None
        # Autograd may come here from under an autocast.
        with torch.autocast(ctx.device, enabled=False), one_pass():
            for index in reversed(range(len(ctx.stages))):
                here = of_levels.get(index)
                if here is not None:
                    # A copy: the layers add to their gradients, and this one is autograd's.
                    here = here.clone(memory_format=torch.channels_last)
                    grad = here if grad is None else grad.add_(here)
                for _ in ctx.stages[index]:
                    if grad is None:
                        tape.entries.pop()
                    else:
                        grad = tape.back(grad)
        return grad, None, None, None


Weights = list[tuple[Tensor, int, int]]


def weights_of(stages: Iterable[Iterable[Layer]]) -> Weights:
    """The weights that layers read, their places and versions."""
    found: Weights = []
    for layers in stages:
        for layer in layers:
            for module in (*layer.modules, *layer.called()):
                # Tensors of inference mode have no version, and of a device without memory no address.
                found += [(p, p.data_ptr(), p._version) for p in module.parameters(False) if not p.is_inference()]
    return found


def unchanged(before: Weights, now: Weights) -> bool:
    """Whether these are the same tensors in the same places and of the same version."""
    pairs = zip(before, now, strict=False)
    return len(before) == len(now) and all(a is b and p == q and v == w for (a, p, v), (b, q, w) in pairs)


def kept_bytes(stages: Iterable[Iterable[Layer]], shape: Sequence[int], channels: int, itemsize: int) -> int:
    """About what a pass over latents `shape` keeps with `save`: every layer's input, and what it says itself."""
    batch, _, height, width = shape
    pixels, total = batch * height * width, 0
    for layers in stages:
        for layer in layers:
            total += pixels * (channels + layer.kept) if layer.remembers else 0
            pixels *= layer.enlarges**2
    return total * itemsize


def recomputes(memory: Memory, needed: Callable[[], int], device: torch.device) -> bool:
    """Whether a pass recomputes: `auto` does where what it would keep is more than half of what is free."""
    return memory == "recompute" or (memory == "auto" and needed() > free_bytes(device) // 2)
