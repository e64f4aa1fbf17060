"""Random cameras of training, the words for their directions, and what lies behind the object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...nerf import Cameras
from .sections import CameraOptions

# In the order of the rows of the text embeddings.
DIRECTIONS = ("front", "side", "back", "overhead", "bottom")
# Degrees. The quarter about azimuth 0 is the front, its opposite the back, as in DreamFusion.
FRONT, BACK, OVERHEAD, BOTTOM = 45.0, 135.0, 60.0, -30.0


def direction_of(azimuth: float, elevation: float, heights: Mapping[str, float] | None = None) -> str:
    """The words of a view-dependent prompt: `front`, `side`, `back`, `overhead` or `bottom`.

    Args:
        azimuth, elevation: of the camera, in degrees.
        heights: words for how high the camera stands, and the elevation in degrees up to which each is used, the lowest
            first. They come before the others, `low side`, up to where `overhead` begins.
    """
    if elevation > OVERHEAD:
        return "overhead"
    if elevation < BOTTOM:
        return "bottom"
    angle = abs((azimuth + 180.0) % 360.0 - 180.0)
    name = "front" if angle < FRONT else "side" if angle < BACK else "back"
    height = next((word for word, limit in (heights or {}).items() if elevation <= limit), "")
    return f"{height} {name}".strip()


@dataclasses.dataclass(frozen=True)
class CameraRanges:
    """Where training looks from, as a configuration's `cameras` has it.

    Attributes:
        azimuth, elevation, fov: ranges in degrees.
        radius: range in world units.
        overhead: share of the views that look from above (65° to 90°) instead.
    """

    azimuth: tuple[float, float] = (0.0, 360.0)
    elevation: tuple[float, float] = (-10.0, 60.0)
    radius: tuple[float, float] = (3.3, 3.9)
    fov: tuple[float, float] = (40.0, 40.0)
    overhead: float = 0.0

    @classmethod
    def of(cls, options: CameraOptions) -> CameraRanges:
        """Those of a configuration; what it leaves out is as above."""
        said = {field.name: getattr(options, field.name) for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in said.items() if value is not None})

    def directions(self, heights: Mapping[str, float] | None = None) -> tuple[str, ...]:
        """The directions that can come up, with the words of `direction_of` for heights."""
        azimuths = np.linspace(*self.azimuth, 361)
        elevations = [*np.linspace(*self.elevation, 91), *([90.0] if self.overhead > 0 else [])]
        found = {direction_of(a, e, heights) for a in azimuths for e in elevations}
        return tuple(sorted(found, key=lambda words: (DIRECTIONS.index(words.split()[-1]), words)))

    def draw(self, generator: torch.Generator) -> tuple[float, float, float, float]:
        """One view: azimuth, elevation, radius, field of view."""
        u = torch.rand(6, dtype=torch.float64, generator=generator).tolist()
        low, high = (65.0, 90.0) if u[0] < self.overhead else self.elevation

        def between(limits: Sequence[float], x: float) -> float:
            return limits[0] + (limits[1] - limits[0]) * x

        azimuth, elevation = between(self.azimuth, u[1]), between((low, high), u[2])
        return azimuth, elevation, between(self.radius, u[3]), between(self.fov, u[4])


def as_cameras(views: Sequence[tuple[float, float, float, float]], device: torch.device) -> Cameras:
    """Cameras of drawn views."""
    return Cameras.orbit(*(list(column) for column in zip(*views, strict=True))).to(device)


class EncodedGreys:
    """Latents of evenly grey pictures, between two greys: what the diffusion model takes for an empty background.

    A background that changes from view to view shows through fog, so that fog is never right (DreamFields' way). The
    borders are kept as the encoder makes them: near them its convolutions see the padding.

    Args:
        prior: whose VAE encodes.
        low, high: the darkest and the brightest grey, 0 to 1.
        levels: how many greys are encoded; between them latents are interpolated.
    """

    def __init__(self, prior: Any, low: float, high: float, levels: int = 5):
        self.prior, self.low, self.high, self.levels = prior, low, high, levels
        self._latents: dict[int, Tensor] = {}

    def __call__(self, shade: Tensor, size: int) -> Tensor:
        """Shades [V] from 0 (the darkest) to 1, latents per side -> latents [V, C, size, size]."""
        latents = self._encoded(size)
        place = shade.to(latents.device) * (self.levels - 1)
        below = place.floor().clamp(0, self.levels - 2).long()
        part = (place - below)[:, None, None, None]
        return latents[below] * (1 - part) + latents[below + 1] * part

    @torch.no_grad()
    def _encoded(self, size: int) -> Tensor:
        if size not in self._latents:
            side = size * self.prior.pixels_per_latent
            greys = torch.linspace(self.low, self.high, self.levels, device=self.prior.device)
            pictures = greys[:, None, None, None].expand(-1, 3, side, side)
            self._latents[size] = torch.cat([self.prior.encode(picture[None], sample=False) for picture in pictures])
        return self._latents[size]
