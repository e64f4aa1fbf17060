"""The true render that a picture of the embedded world comes nearest to: of its caption's solid, by camera and grey.

Nearest has the least mean squared difference of sRGB values, at 32 pixels a side. Coarse to fine: every view of a grid
(azimuths and elevations that training has, two distances), which a few products of arrays compare; then a simplex from
the best of them, over azimuth, elevation, distance and a small shift. The grey behind the solid is solved for.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from ldp_fast.metrics.truth import Pose
from ldp_fast.zoo import solids, world

SIDE = 32  # pixels of the pictures that are compared
RAYS = 2  # per pixel and axis
AZIMUTHS = 24
ELEVATIONS = tuple(range(-5, 90, 10))  # degrees
DISTANCES = (0.95, 1.05)  # times the world's
# How far the simplex may go. Training has elevations of −5° to 90°, distances of 0.92 to 1.1, and no shift.
LOWEST, HIGHEST = math.radians(-10), math.radians(90)
NEAREST, FARTHEST = 0.85, 1.18
LARGEST_SHIFT = 0.25  # world units, in the picture's plane
EVALUATIONS = 50


@dataclasses.dataclass(frozen=True)
class Placed:
    """Where a solid is seen from.

    Attributes:
        view: the camera, and the grey behind the solid.
        shift: of the solid to the right and upwards in the picture, world units.
        difference: root of the mean squared difference at `SIDE` pixels.
    """

    view: world.View
    shift: tuple[float, float] = (0.0, 0.0)
    difference: float = 0.0

    def seen(self, scene: world.Scene, rays: int) -> solids.Seen:
        """What `rays` × `rays` rays see of a solid from there."""
        return _seen(scene, self.view, self.shift, rays)


def _seen(scene: world.Scene, view: world.View, shift: tuple[float, float], rays: int) -> solids.Seen:
    origin, directions = world.rays(view, rays)
    if shift == (0.0, 0.0):
        return solids.look(scene, origin, directions)
    right = np.array([math.cos(view.azimuth), 0.0, -math.sin(view.azimuth)])
    up = np.cross(right, -origin / np.linalg.norm(origin))
    moved = shift[0] * right + shift[1] * up
    return solids.look(scene, origin, directions, Pose(shift=(moved[0], moved[1], moved[2])))


def _shares(seen: solids.Seen) -> np.ndarray:
    """Brightness of the solid's colour and of its second colour, and the grey's share, in each pixel: [3, SIDE²]."""
    layers = [np.where(seen.label == 1, seen.shade, 0), np.where(seen.label == 2, seen.shade, 0), seen.label == 0]
    blocks = np.stack(layers).astype(np.float32).reshape(3, SIDE, RAYS, SIDE, RAYS)
    return blocks.mean(axis=(2, 4)).reshape(3, -1)


def grid() -> list[world.View]:
    """The views that are tried first."""
    return [
        world.View(2 * math.pi * azimuth / AZIMUTHS, math.radians(elevation), world.CAMERA_RADIUS * distance)
        for distance in DISTANCES
        for elevation in ELEVATIONS
        for azimuth in range(AZIMUTHS)
    ]


@functools.lru_cache(maxsize=len(world.SHAPES))
def _grid_of(shape: str) -> dict[str, np.ndarray]:
    """`_shares` of every view of the grid for each pattern, [V, 3, SIDE²]: the same for all colours."""
    found: dict[str, list[np.ndarray]] = {pattern: [] for pattern in world.PATTERNS}
    for view in grid():
        seen = _seen(world.Scene(shape, "red"), view, (0.0, 0.0), SIDE * RAYS)
        hit = seen.label > 0
        for pattern, rows in found.items():
            label = seen.label.copy()
            label[hit] = 1 + world.is_second_colour(world.Scene(shape, "red", pattern, "blue"), seen.points[hit])
            rows.append(_shares(dataclasses.replace(seen, label=label)))
    return {pattern: np.stack(rows) for pattern, rows in found.items()}


def _misfit(layers: np.ndarray, picture: np.ndarray, colours: np.ndarray) -> tuple[Any, Any]:
    """Mean squared difference and the grey with which it is least, of views [..., 3, P] and a picture [P, 3]."""
    solid = np.swapaxes(layers[..., :2, :], -1, -2) @ colours
    clear = layers[..., 2, :, None]
    left = picture - solid
    weight = 3 * (clear**2).sum(axis=(-1, -2))
    grey = np.clip((clear * left).sum(axis=(-1, -2)) / np.maximum(weight, 1e-9), 0, 1)
    return ((left - clear * grey[..., None, None]) ** 2).mean(axis=(-1, -2)), grey


def find(picture: np.ndarray, scene: world.Scene, evaluations: int | None = None) -> Placed:
    """The nearest true render of a solid.

    Args:
        picture: [H, W, 3] sRGB in [0, 1], H = W a multiple of `SIDE`.
        scene: what the caption asks for.
        evaluations: of the simplex; 0 stays on the grid, None takes `EVALUATIONS`.

    Raises:
        ValueError: a picture of another shape.
    """
    from scipy import optimize

    if picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[0] % SIDE or picture.shape[2] != 3:
        raise ValueError(f"find: picture: expected [H, H, 3], H a multiple of {SIDE}, got {list(picture.shape)}")
    evaluations = EVALUATIONS if evaluations is None else evaluations
    side = picture.shape[0] // SIDE
    small = picture.reshape(SIDE, side, SIDE, side, 3).mean(axis=(1, 3)).reshape(-1, 3).astype(np.float32)
    colours = np.array([world.COLOURS[name] for name in solids.two_names(scene)], dtype=np.float32)
    misfits, greys = _misfit(_grid_of(scene.shape)[scene.pattern], small, colours)
    best = int(np.argmin(misfits))
    start = dataclasses.replace(grid()[best], background=float(greys[best]))
    if not evaluations:
        return Placed(start, difference=math.sqrt(float(misfits[best])))

    def placed(x: np.ndarray) -> tuple[world.View, tuple[float, float]]:
        view = world.View(float(x[0]), float(x[1]), world.CAMERA_RADIUS * float(x[2]), start.background)
        return view, (float(x[3]), float(x[4]))

    def misfit(x: np.ndarray) -> float:
        return float(_misfit(_shares(_seen(scene, *placed(x), SIDE * RAYS)), small, colours)[0])

    first = np.array([start.azimuth, start.elevation, start.radius / world.CAMERA_RADIUS, 0.0, 0.0])
    # Steps of half the grid's, each to the side where there is room.
    steps = np.radians([7.0, 5.0, 0, 0, 0]) + np.array([0, 0, 0.04, 0.03, 0.03])
    steps[1] *= -1 if first[1] + steps[1] > HIGHEST else 1
    bounds = [(-10.0, 20.0), (LOWEST, HIGHEST), (NEAREST, FARTHEST), *[(-LARGEST_SHIFT, LARGEST_SHIFT)] * 2]
    corners = np.vstack([first, first + np.diag(steps)])
    options = {"initial_simplex": corners, "maxfev": evaluations, "xatol": 1e-3, "fatol": 1e-7}
    found = optimize.minimize(misfit, first, method="Nelder-Mead", bounds=bounds, options=options)
    if not found.fun < misfits[best]:
        return Placed(start, difference=math.sqrt(float(misfits[best])))
    view, shift = placed(found.x)
    grey = float(_misfit(_shares(_seen(scene, view, shift, SIDE * RAYS)), small, colours)[1])
    view = dataclasses.replace(view, azimuth=view.azimuth % (2 * math.pi), background=grey)
    return Placed(view, shift, math.sqrt(float(found.fun)))
