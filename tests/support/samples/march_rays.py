"""Arguments of ray marching, for its tests and its benchmark."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .occupancy import BOX, bits


def draw_rays(size: int, *, box: list[float] = BOX, seed: int = 0, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """Origins and unit directions [size, 3]: most rays come from outside and aim into the box, a few miss it, start in
    it, or go along an axis."""
    generator = torch.Generator().manual_seed(seed)
    lower, upper = torch.tensor(box[:3]), torch.tensor(box[3:])
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    away = torch.nn.functional.normalize(torch.randn(size, 3, generator=generator), dim=-1)
    origins = middle + 2.5 * half.norm() * away
    origins[5::7] = middle + 0.3 * half * away[5::7]
    targets = middle + half * (torch.rand(size, 3, generator=generator) * 2.4 - 1.2)
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[3::11] = torch.tensor([0.0, -1.0, -0.0])
    return origins.to(device), directions.to(device)


def inputs(
    rays: int = 37,
    *,
    box: list[float] = BOX,
    resolution: int = 16,
    cascades: int = 1,
    share: float | None = 0.3,
    near: float = 0.05,
    far: float = math.inf,
    step: float = 0.06,
    cone_angle: float = 0.0,
    max_step: float = math.inf,
    jitter: bool = True,
    capacity: int = 4000,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Keyword arguments of `torch.ops.ldp_fast.march_rays`; `share` of the cells are occupied, None: no bits."""
    origins, directions = draw_rays(rays, box=box, seed=seed, device=device)
    return {
        "origins": origins,
        "directions": directions,
        "bits": None if share is None else bits(cascades * resolution**3, share, seed=seed, device=device),
        "seed": torch.tensor([seed], device=device),
        "box": box,
        "resolution": resolution,
        "cascades": cascades,
        "near": near,
        "far": far,
        "step": step,
        "cone_angle": cone_angle,
        "max_step": max_step,
        "jitter": jitter,
        "capacity": capacity,
    }
