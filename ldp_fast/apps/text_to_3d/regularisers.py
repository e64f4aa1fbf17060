"""What keeps space outside an object empty, and its inside full.

Each per view, counted per ray as score distillation is per element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...nerf import Cameras, RenderOutput
from ...runs.schedule import Ramp

# Between these the entropy and its gradient are finite.
SMALLEST = 1e-5
# A ray that is so opaque ends at a surface. What is behind it, up to so far in world units, is to be so dense (of which
# 0.1 let 0.37 of the light through).
SURFACE = 0.9
BEHIND = 0.4
SOLID = 10.0
# Densities below this are not told apart: the fields' exponentials have a gradient of their own there.
FAINTEST = 1e-6


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


def hollowness(out: RenderOutput, field: nn.Module, box: Sequence[float], cameras: Cameras, share: Tensor) -> Tensor:
    """Σ over the rays that end at a surface of max(0, log(SOLID / density)), a little behind that surface. [V].

    No view shows what is there, so that nothing else says whether an object is solid or a shell. The surface itself,
    where the ray ends on average, is taken as it is: the gradient is that of the density alone. Below `FAINTEST` the
    term grows no further, and outside the box it is 0.

    Args:
        out: the rendering.
        field: what it shows.
        box: minimum and maximum of the space in which the field is.
        cameras: V, of the rendering.
        share: [V, 1, H, W] in [0, 1]: how far behind the surface to look, of `BEHIND`.
    """
    origins, directions = cameras.rays(*share.shape[-2:])
    opacity, summed = (x.detach().flatten()[:, None] for x in (out.opacity, out.depth))
    # All rays are looked at, also those that do not count: choosing them would wait for the device.
    points = origins + directions * (summed / opacity.clamp(min=SMALLEST) + share.flatten()[:, None] * BEHIND)
    inside = torch.stack([points[:, axis].clamp(box[axis], box[axis + 3]) for axis in range(3)], 1)
    counts = (opacity >= SURFACE)[:, 0] & (inside == points).all(1)
    density = field(inside.to(next(field.parameters(), inside).dtype))[0].float()
    lacking = (math.log(SOLID) - (density + FAINTEST).log()).clamp(min=0)
    return lacking.where(counts, 0).view(len(share), -1).sum(1)


def regularisers(
    out: RenderOutput,
    ramps: Mapping[Any, Ramp],
    progress: float,
    near: float,
    far: float,
    rays_per_latent: float = 1,
    hollow: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum per view [V], and each regulariser's own value per ray (depth: per view), detached.

    What is summed over rays counts per latent, however many rays make one; depth is a mean already.

    Args:
        out: the rendering.
        ramps: the weight of each over the run.
        progress: 0 to 1.
        near, far: for `depth`.
        rays_per_latent: how many rays make one.
        hollow: `hollowness` of this rendering; None where its weight is 0 all along, and it is not looked at.
    """
    rays = out.opacity[0].numel()
    total = out.opacity.new_zeros(len(out.opacity))
    found: dict[str, Tensor] = {}
    for name, ramp in ramps.items():
        weight = ramp.at(progress)
        if name == "hollowness":
            value = out.opacity.new_zeros(len(out.opacity)) if hollow is None else hollow
        else:
            value = depth(out, near, far) if name == "depth" else _PER_RAY[name](out)
        found[name] = value.detach().mean() / (1 if name == "depth" else rays)
        if weight != 0:
            total = total + weight * value / (1 if name == "depth" else rays_per_latent)
    return total, found


_PER_RAY = {"sparsity": sparsity, "emptiness": emptiness, "opacity": opacity, "distortion": distortion}
