"""A scene that is a solid of the embedded world, with the defects that it is told to have; no networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldp_fast.metrics.truth import Pose
from ldp_fast.nerf import Cameras, LatentRenderer, RenderOutput
from ldp_fast.zoo import world

Points = np.ndarray


class SolidField(nn.Module):
    """Dense inside of a solid; the channels are its colours in the world's light.

    Args:
        shown: the solid.
        pose: where it stands.
        stretch: factors along x, y, z.
        hollow: points of the solid's frame -> where there is nothing, whatever the solid is.
        fog: density outside.
        albedo: points of the solid's frame -> colours [N, 3]; None: the solid's.
        speckle: standard deviation of what is added to its normals.
        dense: its density.
    """

    bound = 1.0
    channels = 4

    def __init__(
        self,
        shown: world.Scene,
        pose: Pose | None = None,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
        hollow: Callable[[Points], np.ndarray] | None = None,
        fog: float = 0.0,
        albedo: Callable[[Points], np.ndarray] | None = None,
        speckle: float = 0.0,
        dense: float = 80.0,
    ):
        super().__init__()
        self.shown, self.pose, self.stretch = shown, pose or Pose(), np.array(stretch)
        self.hollow, self.fog, self.albedo, self.speckle = hollow, fog, albedo, speckle
        self.dense = dense

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        points = self.pose.to_solid(positions.numpy().astype(np.float64) / self.stretch)
        distance = world.signed_distance(self.shown.shape, points)
        density = self.dense * np.clip(0.5 - distance / 0.02, 0, 1) + self.fog
        if self.hollow is not None:
            density[self.hollow(points)] = self.fog
        # Through a translucent solid one sees all of it.
        near = np.flatnonzero((np.abs(distance) < 0.1) | ((distance < 0) & (self.dense < 80)))
        colours = np.zeros((len(points), 4))
        light = world.LIGHT @ self.pose.rotation()
        shade = world.AMBIENT + world.DIFFUSE * np.maximum(world.normals(self.shown.shape, points[near]) @ light, 0)
        colours[near, :3] = self._albedo(points[near]) * shade[:, None]
        return torch.from_numpy(density).float(), torch.from_numpy(colours).float()

    def normals(self, positions: Tensor) -> Tensor:
        """Out of the solid, [S, 3]."""
        points = self.pose.to_solid(positions.numpy().astype(np.float64) / self.stretch)
        found = torch.from_numpy(world.normals(self.shown.shape, points) @ self.pose.rotation().T).float()
        return F.normalize(found + self.speckle * torch.randn(found.shape), dim=1)

    def _albedo(self, points: Points) -> np.ndarray:
        if self.albedo is not None:
            return self.albedo(points)
        first, second = (np.array(world.COLOURS[name]) for name in (self.shown.colour, self.shown.second or "red"))
        return np.where(world.is_second_colour(self.shown, points)[:, None], second, first)


class SolidScene:
    """What is asked of a `Scene`.

    Args:
        field: what there is.
        size: latents per side of the views.
    """

    def __init__(self, field: nn.Module, size: int = 16):
        self.field, self.occupancy = field, None
        self.renderer = LatentRenderer(field, steps_per_ray=64).eval()
        self.orbit = {"elevation": 15.0, "radius": world.CAMERA_RADIUS, "fov": 40.0}
        self.latent_size = self.size = self.display_size = size
        self.refined, self.greys, self.background, self.supersample = False, None, None, 2
        self.prior: Any = SimpleNamespace(device=torch.device("cpu"), pixels_per_latent=4, decode=self.decode)
        self.prior.encode = lambda images, sample: F.avg_pool2d(images, 4)

    @torch.no_grad()
    def render(self, cameras: Cameras, size: int, normals: bool = False, **_: Any) -> RenderOutput:
        """Four rays a latent, as the embedded model has it."""
        out = self.renderer(cameras, 2 * size, 2 * size, normals=normals)
        names = ("latents", "opacity", "depth", *(["normals"] if normals else []))
        pooled = {name: F.avg_pool2d(getattr(out, name), 2) for name in names}
        return dataclasses.replace(out, **pooled)

    def behind(self, latents: Tensor, opacity: Tensor, shade: Tensor) -> Tensor:
        """Greys of 0.4 to 0.6."""
        return latents + (1 - opacity) * (0.4 + 0.2 * shade)[:, None, None, None]

    def decode(self, latents: Tensor) -> Tensor:
        """Four pixels a latent."""
        return F.interpolate(latents[:, :3], scale_factor=4, mode="bilinear").clamp(0, 1)
