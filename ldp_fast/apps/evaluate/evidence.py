"""What is looked at of an object before it is measured against the truth: densities, opacities, decoded pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...nerf import Cameras
from ..text_to_3d.mesh.fitting import shape_of
from ..text_to_3d.mesh.surface import EmptyField

RESOLUTION = 96  # points of the density's lattice along an axis
# Azimuth and elevation in degrees.
VIEWS = (
    *((45.0 * i, 15.0) for i in range(8)),
    *((22.5 + 90.0 * i, 45.0) for i in range(4)),
    (0.0, 80.0),
)
SHADES = (0.0, 1.0)  # of the background's greys
PIXELS = 128  # sides of pictures that are judged, at most
RAYS = 32  # sides of opacities that are judged, at most
AT_ONCE = 2**12  # latents that are decoded at once


@dataclasses.dataclass(frozen=True)
class Body:
    """Where an object is solid, as its mesh has it.

    Attributes:
        level: density of the surface, per world unit.
        solid: [R, R, R] bool over [−bound, bound]³, ends included, indexed x, y, z.
        vertices: [V, 3] of the surface.
        faces: [F, 3] int64.
    """

    level: float
    solid: np.ndarray
    vertices: np.ndarray
    faces: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is looked at of an object.

    Attributes:
        body: None where nothing is solid.
        bound: half the side of the box.
        cameras: V of them.
        opacity: [V, h, w] in [0, 1].
        pictures: [S, V, H, W, 3] in [0, 1], the same views in front of S backgrounds.
        latents: per side of a view of training; half of one is as sharp as pictures are.
    """

    body: Body | None
    bound: float
    cameras: Cameras
    opacity: np.ndarray
    pictures: np.ndarray
    latents: int


def cameras_of(orbit: dict[str, float]) -> Cameras:
    """The cameras of all measurements, at the distance and with the field of view of a scene's orbit."""
    azimuths, elevations = ([view[i] for view in VIEWS] for i in (0, 1))
    return Cameras.orbit(azimuths, elevations, float(orbit["radius"]), float(orbit["fov"]))


@torch.no_grad()
def look_at(scene: Any, *, size: int | None = None, resolution: int = RESOLUTION) -> Evidence:
    """What a scene shows; arguments as for `judge`."""
    cameras = cameras_of(scene.orbit)
    size = size or scene.display_size
    latents, opacities = [], []
    for camera in cameras:
        out = scene.render(camera, size, greys=False)
        latents.append(out.latents)
        opacities.append(out.opacity)
    opacity = torch.cat(opacities)
    pictures = []
    for shade in SHADES:
        shades = torch.full((len(cameras),), shade, device=opacity.device)
        shown = scene.behind(torch.cat(latents), opacity, shades)
        pictures.append(decoded(scene, shown))
    side = int(getattr(scene, "latent_size", scene.size))
    return Evidence(
        body=body_of(scene, resolution),
        bound=float(scene.field.bound),
        cameras=cameras,
        opacity=_at_most(opacity.float().cpu(), RAYS)[:, 0].numpy(),
        pictures=np.stack(pictures),
        latents=side,
    )


def body_of(scene: Any, resolution: int) -> Body | None:
    """The body that `ldp-fast export` would cut out of a scene; None where there is nothing to cut out.

    Args:
        scene: as for `shape_of`.
        resolution: points of the density's lattice along an axis.

    Raises:
        UsageError: densities that are not finite.
    """
    try:
        shape = shape_of(scene, resolution)
        surface = shape.surface()
    except EmptyField:
        return None
    return Body(shape.level, shape.solid(), surface.vertices, surface.faces)


def decoded(scene: Any, latents: Tensor) -> np.ndarray:
    """Latents [V, C, h, w] as pictures [V, H, W, 3] of `PIXELS` a side at most."""
    count = max(1, AT_ONCE // latents.shape[-1] ** 2)
    pictures = torch.cat([scene.decode(part).float().cpu() for part in latents.split(count)])
    return _at_most(pictures, PIXELS).permute(0, 2, 3, 1).numpy()


def _at_most(pictures: Tensor, side: int) -> Tensor:
    """Means over squares of pixels, so that there are at most so many a side."""
    factor = -(-pictures.shape[-1] // side)
    return F.avg_pool2d(pictures, factor) if factor > 1 else pictures
