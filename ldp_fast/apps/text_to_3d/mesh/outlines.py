"""The object's outlines in rendered views: how well a surface agrees with them, and where in space they leave room."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....nerf import Cameras
from ..pictures.frames import render_views
from .texture import nearness, project

# Elevation in degrees, and how many views around: from where training looks, and as low as it does, for the underside.
RINGS = ((0.0, 8), (30.0, 6), (75.0, 2))
RAYS = 64  # along a side of a view
POINTS = 2**18  # projected at a time
# A place that lies outside of this many outlines is still part of the object: a speckled view errs.
ERRING = 1


@dataclasses.dataclass(frozen=True)
class Outlines:
    """What rendered views show of the object's shape.

    Attributes:
        cameras: V views, on the CPU.
        opacity: [V, P, P] float32, without the light that an even fog takes.
        supersample: rays along an axis whose mean a pixel is.
        solidity: typical opacity of the object, 0 to 1: about 1, unless it is translucent.
    """

    cameras: Cameras
    opacity: Tensor
    supersample: int
    solidity: float

    @property
    def masks(self) -> Tensor:
        """[V, P, P] bool: where rays lose at least half as much light as they typically do in the object."""
        # A hair less, so that a pixel of which half is covered is in the outline as it is in a silhouette.
        return self.opacity >= max((0.5 - 1e-4) * self.solidity, 1e-6)

    def agreement(self, vertices: Tensor, faces: Tensor) -> float:
        """The mean over the views of the intersection over the union of a mesh's silhouettes and the outlines.

        Args:
            vertices: [V, 3].
            faces: [F, 3] int64.

        Returns:
            0 to 1; a view where neither shows anything counts for 1.
        """
        # Through the same points of a pixel as the rays: a surface that is exactly right agrees exactly.
        size = self.opacity.shape[-1] * self.supersample
        covered = torch.stack([nearness(camera, vertices.float(), faces, size) > 0 for camera in self.cameras])
        shown = F.avg_pool2d(covered.float(), self.supersample) >= 0.5
        masks = self.masks
        common, either = (x.flatten(1).sum(1) for x in (shown & masks, shown | masks))
        return float(torch.where(either > 0, common / either.clamp(min=1), 1.0).mean())

    def room(self, points: Tensor) -> Tensor:
        """How far inside of the outlines places are: the opacity where a view shows them, over the typical one.

        Of all views the lowest counts, after `ERRING` lower ones; a view that does not show a place says nothing.

        Args:
            points: [N, 3] world coordinates.

        Returns:
            [N] float32: 0.5 at the outline, more inside.
        """
        parts = []
        for part in points.float().split(POINTS):
            seen = []
            for camera, opacity in zip(self.cameras, self.opacity, strict=True):
                place, depth = project(camera, part)
                sampled = F.grid_sample(
                    opacity[None, None], place[None, None] * 2 - 1, padding_mode="border", align_corners=False
                )
                within = ((place > 0) & (place < 1)).all(1) & (depth > 0)
                seen.append(torch.where(within, sampled[0, 0, 0], 1.0))
            parts.append(torch.stack(seen).kthvalue(min(ERRING, len(seen) - 1) + 1, dim=0).values)
        return torch.cat(parts) / max(self.solidity, 1e-6)


def seen_outlines(scene: Any, fog: float = 0.0) -> Outlines:
    """Renders the views in which outlines are looked at.

    Args:
        scene: has `render`, `orbit`, `refined`, `supersample` and a field.
        fog: density that fills the box evenly, per world unit, and does not count.
    """
    azimuths, elevations = [], []
    for elevation, count in RINGS:
        azimuths += [i * 360 / count for i in range(count)]
        elevations += [elevation] * count
    cameras = Cameras.orbit(azimuths, elevations, float(scene.orbit["radius"]), float(scene.orbit["fov"]))
    device = next(scene.field.parameters(), torch.empty(0)).device
    supersample = 1 if scene.refined else scene.supersample
    opacity = render_views(scene, cameras.to(device), -(-RAYS // supersample), greys=False).opacity[:, 0].float().cpu()
    if fog > 0:
        through = fog * _lengths(cameras, float(scene.field.bound), opacity.shape[-1])
        opacity = (1 - (1 - opacity) * through.exp()).clamp(0, 1)
    return Outlines(cameras, opacity, supersample, _typical(opacity))


def _lengths(cameras: Cameras, bound: float, size: int) -> Tensor:
    """How long the rays through the pixels are within the box, world units. [V, size, size]."""
    origins, directions = cameras.rays(size, size)
    sides = torch.stack([(-bound - origins) / directions, (bound - origins) / directions])
    near, far = sides.amin(0).amax(1), sides.amax(0).amin(1)
    return (far - near.clamp(min=0)).clamp(min=0).view(len(cameras), size, size)


def _typical(opacity: Tensor) -> float:
    """The median over the pixels with at least half of it, from the highest opacity downwards."""
    found = min(1.0, float(opacity.max()))
    for _ in range(16):
        inside = opacity[opacity > 0.5 * found]
        if not len(inside):
            break
        found = float(inside.median())
    return found
