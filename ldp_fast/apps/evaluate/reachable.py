"""The solid itself put through the pipeline of text-to-3D: what an object could reach at most with this VAE."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...metrics import outline_fog
from ...nerf import Cameras, LatentRenderer, RenderOutput
from ...zoo import solids, world
from .evidence import RAYS, RESOLUTION, SHADES, Evidence, body_of, cameras_of, decoded

VOXELS = 64  # along an axis
DENSITY = 60.0  # inside, per world unit: a tenth of the solids' diameter is opaque
STEPS = 192  # of rays, from corner to corner


class Voxelised(nn.Module):
    """A solid's density on a lattice over [−1, 1]³, trilinear between its points, without channels.

    Args:
        shape: of the solid.
        voxels: points along an axis.
    """

    bound = 1.0

    def __init__(self, shape: str, voxels: int = VOXELS):
        super().__init__()
        axis = np.linspace(-1, 1, voxels)
        points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
        # Shares of cells, not yes or no: the surface is then where it is and not at the next point.
        shares = np.clip(0.5 - world.signed_distance(shape, points) * (voxels - 1) / 2, 0, 1)
        grid = torch.from_numpy(DENSITY * shares).float().view(1, 1, voxels, voxels, voxels)
        self.grid: Tensor
        self.register_buffer("grid", grid)

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[S, 3] -> density [S], channels [S, 1] of zeros."""
        # grid_sample's last axis comes first.
        places = positions.flip(-1)[None, None, None]
        density = F.grid_sample(self.grid, places, align_corners=True)[0, 0, 0, 0]
        return density, torch.zeros_like(density)[:, None]


class VoxelisedScene:
    """What is asked of a Scene to find its body.

    Args:
        field: of the solid.
        like: a scene of a run: its orbit and the size of its latents.
    """

    def __init__(self, field: Voxelised, like: Any):
        self.field, self.occupancy, self.background = field, None, None
        self.orbit, self.refined = like.orbit, True
        self.latent_size = self.size = like.latent_size
        self.renderer = LatentRenderer(field, steps_per_ray=STEPS).eval()

    @torch.no_grad()
    def render(self, cameras: Cameras, size: int, **_: Any) -> RenderOutput:
        """One ray a pixel, as of a refined field; there is nothing behind it."""
        return self.renderer(cameras, size, size)


@torch.no_grad()
def truth_through(scene: Any, asked: world.Scene, *, size: int | None = None, resolution: int = RESOLUTION) -> Evidence:
    """What there would be to look at if training had made the very solid.

    Its density is voxelised and rendered, its pictures are encoded and decoded by the VAE of a run.

    Args:
        scene: of a run: its cameras, its prior, its sizes, the greys of its background.
        asked: the solid.
        size: latents (refined: pixels) per side of the views; None: as pictures for people have.
        resolution: points of the density's lattice along an axis.
    """
    prior = scene.prior
    cameras = cameras_of(scene.orbit)
    voxelised = VoxelisedScene(Voxelised(asked.shape), scene)
    opacity = torch.cat([voxelised.render(camera, 2 * RAYS).opacity for camera in cameras])
    side = (size or scene.display_size) * (1 if scene.refined else prior.pixels_per_latent)
    low, high = (scene.greys.low, scene.greys.high) if scene.greys is not None else world.BACKGROUNDS
    seen = []
    for camera in cameras:
        origins, directions = (x.numpy() for x in camera.rays(2 * side, 2 * side))
        seen.append(solids.look(asked, origins[0], directions))
    pictures = []
    for shade in SHADES:
        latents = []
        for one in seen:
            sharp = one.picture(asked, low + (high - low) * shade).reshape(side, 2, side, 2, 3).mean(axis=(1, 3))
            image = torch.from_numpy(sharp).permute(2, 0, 1)[None].to(prior.device)
            latents.append(prior.encode(image, sample=False))
        pictures.append(decoded(prior, torch.cat(latents)))
    return Evidence(
        body=body_of(voxelised, resolution),
        bound=voxelised.field.bound,
        cameras=cameras,
        opacity=F.avg_pool2d(opacity, 2)[:, 0].numpy(),
        pictures=np.stack(pictures),
        latents=scene.latent_size,
        normal_noise=math.nan,
        outline_fog=outline_fog(opacity),
    )
