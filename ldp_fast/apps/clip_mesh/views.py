"""Pictures of the mesh: cameras, lights and backgrounds that are drawn for each step, light, and a rasteriser."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...clip import augment
from ...nerf import Cameras
from ...runs.seeds import mixed_generator
from ...zoo import world
from .configuration import CameraOptions, ClipMesh, LightOptions
from .mesh import TexturedMesh
from .rasterisers import NEAREST, Rasteriser

# Standard deviations of CLIP-Mesh's blurs of its backgrounds, in pixels, lowest and highest.
BLURS = (2.0, 5.0)
# Of the generator of a step's backgrounds, so that it is not that of its cameras.
BEHIND = 1
# Grey of a mesh without its texture.
UNTEXTURED = 0.5


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where a batch of pictures is taken from.

    Attributes:
        cameras: V of them.
        lights: [V, 3] positions, world units.
        behind: [V, 3, H, W] backgrounds in [0, 1].
    """

    cameras: Cameras
    lights: Tensor
    behind: Tensor


def drawn(configuration: ClipMesh, step: int, device: torch.device) -> Setting:
    """What a step, counted from 1, is seen in; everything comes from the run's seed and the step.

    Cameras, lights and greys are drawn on the CPU, the same for every device; patterns, which are as large as the
    pictures, on the device.

    Elevations are low ones for the most part: the share of those below h is 1 − (1 − h)^`low_share`, h from 0 to 1
    (CLIP-Mesh's Beta(1, 5)). A light is about as far away as the camera, in a direction from the middle that is
    cosine-distributed about that to the camera.
    """
    c, options = configuration, configuration.cameras
    generator = mixed_generator(c.seed, step)
    u = torch.rand(c.views, 6, dtype=torch.float64, generator=generator)
    height = 1 - (1 - u[:, 1]) ** (1 / options.low_share)
    cameras = Cameras.orbit(
        360 * u[:, 0],
        _between(options.elevation, height),
        _between(options.radius, u[:, 2]),
        _between(options.fov, u[:, 3]),
    )
    shifted = 0.5 + options.offset * (2 * u[:, 4:] - 1)
    cameras = dataclasses.replace(cameras, centre=shifted.to(cameras.centre.dtype))
    lights = _lights(cameras.positions, generator)
    if c.background == "greys":
        behind = _greys(c.views, c.size, generator, device)
    else:
        behind = _patterns(c.views, c.size, augment.step_generator(device, c.seed, step, BEHIND))
    return Setting(cameras.to(device), lights.to(device), behind)


def shown(
    options: CameraOptions, azimuth: list[float], elevation: list[float], size: int, device: torch.device
) -> Setting:
    """What people and metrics see: from the middle of the ranges, lit from the camera's right above, on grey.

    Args:
        options: of the run.
        azimuth, elevation: degrees, one of each a picture.
        size: pixels per side.
        device: where.
    """
    middle = [sum(x) / 2 for x in (options.radius, options.fov)]
    cameras = Cameras.orbit(azimuth, elevation, *middle).to(device)
    right, up = cameras.poses[:, :3, 0], cameras.poses[:, :3, 1]
    lights = cameras.positions + 0.5 * middle[0] * (right + up)
    return Setting(cameras, lights, torch.full((len(cameras), 3, size, size), SHADE, device=device))


# Of the background that people and metrics see: the middle of the embedded world's greys.
SHADE = sum(world.BACKGROUNDS) / 2


def pictures(
    mesh: TexturedMesh, rasteriser: Rasteriser, setting: Setting, light: LightOptions, *, plain_from: int | None = None
) -> Tensor:
    """Draws the mesh, with gradients.

    Args:
        mesh: what is drawn.
        rasteriser: of its faces.
        setting: V cameras, lights and backgrounds.
        light: how bright.
        plain_from: from this picture on the mesh is drawn grey, without its texture.

    Returns:
        [V, 3, H, W] in [0, 1].
    """
    positions = mesh.positions()
    normals = mesh.normals(positions)
    towards = F.normalize(setting.lights[:, None] - positions, dim=2)
    shade = light.ambient + light.power * (towards * normals).sum(2).clamp(min=0)
    colours = mesh.colours().expand(len(shade), -1, -1)
    if plain_from is not None:
        plain = torch.arange(len(shade), device=shade.device) >= plain_from
        colours = torch.where(plain[:, None, None], torch.full_like(colours, UNTEXTURED), colours)
    lit = (colours * shade[..., None]).clamp(0, 1)
    return rasteriser(in_picture(setting.cameras, positions), lit, setting.behind).clamp(0, 1)


def in_picture(cameras: Cameras, points: Tensor) -> Tensor:
    """Points [N, 3] as each camera sees them, homogeneous [V, N, 4]: see `Rasteriser`."""
    poses = cameras.poses.to(points)
    local = (points - poses[:, None, :3, 3]) @ poses[:, :3, :3]
    depth = -local[..., 2]
    focal, centre = cameras.focal.to(points)[:, None], cameras.centre.to(points)[:, None]
    x = 2 * focal[..., 0] * local[..., 0] + (2 * centre[..., 0] - 1) * depth
    y = 2 * focal[..., 1] * local[..., 1] + (1 - 2 * centre[..., 1]) * depth
    # From −1 to 1 over w between NEAREST and infinity.
    return torch.stack([x, y, depth - 2 * NEAREST, depth], dim=2)


def _between(limits: tuple[float, float], share: Tensor) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * share


def _lights(positions: Tensor, generator: torch.Generator) -> Tensor:
    distance = positions.norm(dim=1, keepdim=True)
    u = torch.rand(len(positions), 2, dtype=torch.float64, generator=generator)
    y, angle = 2 * u[:, 0] - 1, 2 * math.pi * u[:, 1]
    ring = (1 - y.square()).sqrt()
    ball = torch.stack([ring * angle.cos(), y, ring * angle.sin()], dim=1).to(positions)
    # A direction plus a point of the unit sphere about its end is cosine-distributed.
    return distance * F.normalize(positions / distance + ball, dim=1)


def _greys(count: int, size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    low, high = world.BACKGROUNDS
    shades = torch.rand(count, 3, 1, 1, generator=generator)[:, :1]
    return (low + (high - low) * shades).to(device).expand(-1, 3, size, size).contiguous()


def _patterns(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Of one colour, blurred noise and blurred checkerboards, a third each, on the generator's device."""
    shades = torch.rand(count, 3, 1, 1, generator=generator, device=generator.device)
    patterned = augment.backgrounds(count, size, generator, kinds=("noise", "checkerboard"), blur=BLURS)
    flat = torch.rand(count, generator=generator, device=generator.device) < 1 / 3
    return torch.where(flat[:, None, None, None], shades.expand(-1, -1, size, size), patterned)
