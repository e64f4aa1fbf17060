"""Inputs of the compositing operator, for its tests and its benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Samples of the rays: none, one, around a warp, several warps.
COUNTS = (0, 1, 31, 32, 33, 0, 200, 64, 2, 0)


def inputs(
    counts: Sequence[int] = COUNTS,
    *,
    channels: int = 4,
    density: float = 4.0,
    background: bool = True,
    padding: int = 7,
    early_stop: float = 0.0,
    emptiness_scale: float = 10.0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    requires_grad: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Keyword arguments of `torch.ops.ldp_fast.composite`.

    Args:
        counts: samples of each ray.
        channels: C.
        density: the greatest; steps are 0.03 on average.
        background: whether there is one.
        padding: rows behind the last ray's, filled with NaN, which must not show anywhere.
        early_stop, emptiness_scale: as the operator's.
        dtype, device: of the floating tensors.
        requires_grad: of density, values and background.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)

    offsets = torch.tensor([0, *counts]).cumsum(0)
    size = int(offsets[-1])
    steps = uniform(size, low=0.01, high=0.05)
    distances = torch.cat([1.5 + x.cumsum(0) for x in steps.split(list(counts))]) if counts else steps
    packed = {
        "density": uniform(size, low=0.0, high=density),
        "values": torch.randn(size, channels, dtype=torch.float64, generator=generator),
        "distances": distances,
        "steps": steps,
    }
    packed = {k: torch.cat([x, x.new_full((padding, *x.shape[1:]), float("nan"))]) for k, x in packed.items()}
    behind = torch.randn(len(counts), channels, dtype=torch.float64, generator=generator) if background else None
    named: dict[str, Any] = {k: x.float().to(dtype).to(device) for k, x in packed.items()}
    named["ray_offsets"] = offsets.to(device)
    named["background"] = None if behind is None else behind.float().to(dtype).to(device)
    for name in ("density", "values", "background"):
        if named[name] is not None:
            named[name].requires_grad_(requires_grad)
    return named | {"early_stop": early_stop, "emptiness_scale": emptiness_scale}


def backward_arguments(made: dict[str, Any], which: int = 63) -> tuple[Any, ...]:
    """Arguments of `torch.ops.ldp_fast.composite_backward`: bit k of `which` gives output k a gradient."""
    arguments = tuple(x.detach() if isinstance(x, Tensor) else x for x in made.values())
    outputs = torch.ops.ldp_fast.composite(*arguments)
    grads = [
        torch.linspace(-1, 1, x.numel()).to(x).view(x.shape) if which >> k & 1 else None for k, x in enumerate(outputs)
    ]
    return (*grads, *arguments[:6], outputs[1], *arguments[6:])
