"""A scene with a known look and no networks: an analytic torus whose decoder shows where on the torus a pixel is."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.nerf import Cameras, LatentRenderer, RenderOutput

from ..nerf.scenes import Torus


class SolidTorus(Torus):
    """With normals, which point outwards."""

    def normals(self, positions: Tensor) -> Tensor:
        """[S, 3] -> [S, 3] of length 1."""
        with torch.enable_grad():
            at = positions.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.distance(at).sum(), at)
        return F.normalize(gradient, dim=1)


class ToyScene:
    """What pictures ask of a `Scene`."""

    def __init__(self, size: int = 8, field: torch.nn.Module | None = None) -> None:
        self.field: Any = field or SolidTorus()
        self.renderer = LatentRenderer(self.field, background=torch.zeros(4), steps_per_ray=64).eval()
        self.size, self.step = size, 7
        self.display_size, self.prior = size, SimpleNamespace(device=torch.device("cpu"))
        self.background, self.refined, self.supersample = None, False, 1
        self.orbit = {"elevation": 20.0, "radius": 3.6, "fov": 40.0}
        self.border = 0.0
        self.rendered: list[int] = []
        self.decoded: list[int] = []

    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        size: int | None = None,
        *,
        normals: bool = False,
        shade: float = 0.5,
        greys: bool = True,
    ) -> RenderOutput:
        """As Scene's; keeps a note of how many rays each call marched."""
        size = size or self.size
        self.rendered.append(len(cameras) * size * size)
        out = self.renderer(cameras, size, size, normals=normals)
        shades = torch.full((len(cameras),), shade)
        return dataclasses.replace(out, latents=self.behind(out.latents, out.opacity, shades)) if greys else out

    def behind(self, latents: Tensor, opacity: Tensor, shade: Tensor) -> Tensor:
        """A background that, as an encoder's does, depends on where in the whole picture a latent is."""
        height, width = latents.shape[-2:]
        ramp = torch.linspace(-1, 1, height)[:, None] * torch.linspace(-1, 1, width) * self.border
        return latents + (1 - opacity) * shade[:, None, None, None] * ramp

    def decode(self, latents: Tensor) -> Tensor:
        """Four pixels per latent; the channels 0 to 2 about grey. Channel 0 is the sine of the azimuth: +x is red."""
        self.decoded.append(len(latents))
        return F.interpolate((latents[:, :3] / 4 + 0.5).clamp(0, 1), scale_factor=4)
