"""Arguments of the occupancy grid's operators, for their tests and benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import ldp_fast.ops  # noqa: F401  (registers them)

BOX = [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
UNEVEN_BOX = [-1.0, -2.0, 0.5, 1.5, 1.0, 1.25]


def bits(cells: int, share: float, *, seed: int = 0, device: str = "cpu") -> Tensor:
    """Random bits of which a share is set: [cells / 8] uint8."""
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.rand(cells // 8, 8, generator=generator) < share
    return (occupied.long() << torch.arange(8)).sum(-1).to(torch.uint8).to(device)


def shell_average(resolution: int, *, device: str = "cpu") -> Tensor:
    """Averages [res³] of a scene like a real one: a shell of density 1 between radii 0.4 and 0.7 of `BOX`."""
    samples = torch.ops.ldp_fast.occupancy_samples
    unused = torch.zeros(1)
    _, positions = samples(torch.zeros(resolution**3), unused, unused.long(), 0, 0, BOX, resolution, 1)
    radius = positions.norm(dim=-1)
    return ((radius > 0.4) & (radius < 0.7)).float().to(device)


def inputs(
    *,
    box: list[float] = BOX,
    resolution: int = 8,
    cascades: int = 1,
    uniform: int = 0,
    occupied: int = 0,
    threshold: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Keyword arguments of `torch.ops.ldp_fast.occupancy_samples`; averages are uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "ema": torch.rand(cascades * resolution**3, generator=generator).to(device),
        "threshold": torch.tensor([threshold], device=device),
        "seed": torch.tensor([seed], device=device),
        "uniform": uniform,
        "occupied": occupied,
        "box": box,
        "resolution": resolution,
        "cascades": cascades,
    }
