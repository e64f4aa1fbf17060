"""What keeps space outside the object empty. Each per view, counted per ray as score distillation is per element."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...nerf import RenderOutput
from ...runs.schedule import Ramp

# Between these the entropy and its gradient are finite.
SMALLEST = 1e-5


def sparsity(out: RenderOutput) -> Tensor:
    """Σ over the rays of the binary entropy of their opacity (Latent-NeRF): rays end in the object or pass. [V]."""
    o = out.opacity.clamp(SMALLEST, 1 - SMALLEST)
    return -(o * o.log() + (1 - o) * (1 - o).log()).flatten(1).sum(1)


def emptiness(out: RenderOutput) -> Tensor:
    """Σ over the rays and their samples of log(1 + 10 w) (SJC): few samples carry a ray. [V]."""
    return out.emptiness.flatten(1).sum(1)


def opacity(out: RenderOutput) -> Tensor:
    """Σ over the rays of their opacity. [V]."""
    return out.opacity.flatten(1).sum(1)


def distortion(out: RenderOutput) -> Tensor:
    """Σ over the rays of mip-NeRF 360's distortion. [V]."""
    return out.distortion.flatten(1).sum(1)


def depth(out: RenderOutput, near: float, far: float) -> Tensor:
    """−log of how much nearer the middle of the picture is than its border (SJC). [V].

    Nearness is Σ w (far − distance) / (far − near): 0 where nothing is. The border is as wide as SJC's, 7 of 64 pixels.
    """
    nearness = (out.opacity * far - out.depth) / (far - near)
    height, width = nearness.shape[-2:]
    y, x = max(1, round(height * 7 / 64)), max(1, round(width * 7 / 64))
    if height <= 2 * y or width <= 2 * x:
        return nearness.new_zeros(len(nearness))
    middle = nearness[:, 0, y:-y, x:-x]
    outside = nearness.sum((1, 2, 3)) - middle.sum((1, 2))
    border = outside / (height * width - middle[0].numel())
    return -(middle.mean((1, 2)) - border).clamp(min=1e-12).log()


def regularisers(
    out: RenderOutput, ramps: Mapping[Any, Ramp], progress: float, near: float, far: float, rays_per_latent: float = 1
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum per view [V], and each regulariser's own value per ray (depth: per view), detached.

    What is summed over rays counts per latent, however many rays make one; depth is a mean already.
    """
    rays = out.opacity[0].numel()
    total = out.opacity.new_zeros(len(out.opacity))
    found: dict[str, Tensor] = {}
    for name, ramp in ramps.items():
        weight = ramp.at(progress)
        value = depth(out, near, far) if name == "depth" else _PER_RAY[name](out)
        found[name] = value.detach().mean() / (1 if name == "depth" else rays)
        if weight != 0:
            total = total + weight * value / (1 if name == "depth" else rays_per_latent)
    return total, found


_PER_RAY = {"sparsity": sparsity, "emptiness": emptiness, "opacity": opacity, "distortion": distortion}
