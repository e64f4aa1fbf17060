"""Analytic latent fields with known renderings, and a field trained on one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldp_fast.nerf import Cameras, FusedAdam, HashGrid, LatentField, LatentRenderer, OccupancyGrid

MAJOR, MINOR = 0.55, 0.25


class Torus(nn.Module):
    """A torus around the y axis, its four channels smooth functions of the place; density falls off in a thin shell."""

    bound = 1.0
    channels = 4

    def __init__(self, density: float = 40.0, softness: float = 0.03):
        super().__init__()
        self.inside, self.softness = density, softness

    def distance(self, x: Tensor) -> Tensor:
        """Signed distance of [S, 3] -> [S]."""
        ring = (x[:, 0].square() + x[:, 2].square()).clamp(min=1e-12).sqrt() - MAJOR
        return (ring.square() + x[:, 1].square()).clamp(min=1e-12).sqrt() - MINOR

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        density = self.inside * torch.sigmoid(-self.distance(positions) / self.softness)
        angle = torch.atan2(positions[:, 0], positions[:, 2])
        values = [angle.sin(), (2 * angle).cos(), positions[:, 1] / MINOR, 0.5 * (3 * math.pi * positions[:, 1]).cos()]
        return density, torch.stack(values, dim=-1)


class Ball(nn.Module):
    """A ball of constant density and constant channels: opacity and depth along a ray have closed forms."""

    bound = 1.0

    def __init__(self, radius: float = 0.5, density: float = 3.0, values: tuple[float, ...] = (1.0, -2.0)):
        super().__init__()
        self.radius, self.inside, self.values = radius, density, values
        self.channels = len(values)

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        density = self.inside * (positions.norm(dim=-1) < self.radius).to(positions.dtype)
        return density, positions.new_tensor(self.values).expand(len(positions), -1)


@dataclass
class TrainedTorus:
    """What `train_torus` yields."""

    renderer: LatentRenderer
    occupancy: OccupancyGrid
    truth: LatentRenderer
    held_out: Cameras


def train_torus(
    steps: int = 250, size: int = 32, views: int = 64, at_once: int = 2, steps_per_ray: int = 64, rate: float = 8e-3
) -> TrainedTorus:
    """Learns the torus from `views` random views of size × size, `at_once` a step."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> Cameras:
        return Cameras.sample(count, elevation=(-40.0, 80.0), radius=3.2, fov=38.0, generator=generator)

    cameras, held_out = draw(views), draw(8)
    truth = LatentRenderer(Torus(), steps_per_ray=256).eval()
    with torch.no_grad():
        targets = truth(cameras, size, size).latents
    torch.manual_seed(0)
    field = LatentField(HashGrid(n_levels=8, log2_table_size=14, base_resolution=8, finest_resolution=128), hidden=32)
    occupancy = OccupancyGrid(resolution=32)
    renderer = LatentRenderer(field, occupancy, steps_per_ray=steps_per_ray)
    optimiser = FusedAdam(field.parameter_groups(rate), eps=1e-15)
    for step in range(steps):
        if step % 4 == 0:
            occupancy.update(field)
        chosen = torch.randint(views, (at_once,), generator=generator)
        out = renderer(cameras[chosen], size, size, seed=step)
        (out.latents - targets[chosen]).square().mean().backward()
        optimiser.step()
    return TrainedTorus(renderer, occupancy, truth, held_out)


def decibels(seen: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio; the peak is the truth's range."""
    peak = float(truth.max() - truth.min())
    return 10 * math.log10(peak**2 / float((seen - truth).square().mean()))
