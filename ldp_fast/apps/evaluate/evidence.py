"""What is looked at of an object before it is measured against the truth: densities, opacities, decoded pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import UsageError
from ...metrics import normal_noise, outline_fog
from ...nerf import Cameras
from ..text_to_3d.mesh.fitting import shape_of
from ..text_to_3d.mesh.surface import EmptyField
from ..text_to_3d.pictures.frames import render_views, solid_size_of, with_even_normals

RESOLUTION = 96  # points of the density's lattice along an axis
# Azimuth and elevation in degrees.
VIEWS = (
    *((45.0 * i, 15.0) for i in range(8)),
    *((22.5 + 90.0 * i, 45.0) for i in range(4)),
    (0.0, 80.0),
)
SURFACE = ((20.0, 15.0), (200.0, 45.0))  # the views whose normals are looked at
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
        normal_noise: how speckled the normals are, degrees (`ldp_fast.metrics.normal_noise`); NaN where nothing is far
            enough inside of the outline, or where normals are not rendered.
        outline_fog: the share of rays that are fog which no outline explains (`ldp_fast.metrics.outline_fog`).
    """

    body: Body | None
    bound: float
    cameras: Cameras
    opacity: np.ndarray
    pictures: np.ndarray
    latents: int
    normal_noise: float
    outline_fog: float


def cameras_of(orbit: dict[str, float], views: Sequence[tuple[float, float]] = VIEWS) -> Cameras:
    """The cameras of measurements, at the distance and with the field of view of a scene's orbit."""
    azimuths, elevations = ([view[i] for view in views] for i in (0, 1))
    return Cameras.orbit(azimuths, elevations, float(orbit["radius"]), float(orbit["fov"]))


@torch.no_grad()
def look_at(scene: Any, *, size: int | None = None, resolution: int = RESOLUTION) -> Evidence:
    """What a scene shows; arguments as for `judge`.

    Raises:
        UsageError: densities, opacities or pictures that are not finite.
    """
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
    seen, rays = np.stack(pictures), _at_most(opacity.float().cpu(), RAYS)[:, 0].numpy()
    for name, values in (("opacities", rays), ("pictures", seen)):
        if not np.isfinite(values).all():
            raise UsageError(f"its {name} are not all finite")
    side = int(getattr(scene, "latent_size", scene.size))
    noise, fog = _surface(scene, cameras_of(scene.orbit, SURFACE))
    return Evidence(
        body=body_of(scene, resolution),
        bound=float(scene.field.bound),
        cameras=cameras,
        opacity=rays,
        pictures=seen,
        latents=side,
        normal_noise=noise,
        outline_fog=fog,
    )


def _surface(scene: Any, cameras: Cameras) -> tuple[float, float]:
    """`normal_noise` and `outline_fog` of a scene, of views as people see them in normals.png and opacity.png."""
    views = render_views(scene, cameras, solid_size_of(scene), normals=True, greys=False)
    even = with_even_normals(scene, views)
    assert even.normals is not None
    return normal_noise(even.normals, even.opacity), outline_fog(even.opacity)


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
    """Means over squares of pixels, so that there are at most so many a side, which show all that there was."""
    factor = -(-pictures.shape[-1] // side)
    return F.adaptive_avg_pool2d(pictures, pictures.shape[-1] // factor) if factor > 1 else pictures
