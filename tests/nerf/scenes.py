"""Analytic latent fields with known renderings, written from the definitions and independent of the package."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

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
