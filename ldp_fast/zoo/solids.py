"""The solids of the embedded model's world in any pose: what is inside, what a ray sees, where on the surface it is.

They are what objects that were made from a caption are measured against (`ldp_fast.metrics.truth`).
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from ..metrics.truth import Pose
from .world import AMBIENT, COLOURS, DIFFUSE, LIGHT, Scene, first_hits, is_second_colour, normals, signed_distance


@dataclasses.dataclass(frozen=True)
class Seen:
    """What N rays see of a solid.

    Attributes:
        label: `[N]` uint8: 0 nothing, 1 its colour, 2 its second colour.
        shade: `[N]` float32, brightness by the world's light; 1 where there is nothing.
        points: `[N, 3]` float32, places on the surface in the solid's frame; NaN where there is nothing.
    """

    label: np.ndarray
    shade: np.ndarray
    points: np.ndarray

    def picture(self, scene: Scene, background: float) -> np.ndarray:
        """Colours `[N, 3]` float32 in [0, 1], in front of a grey."""
        palette = np.array([[background] * 3, *(COLOURS[name] for name in two_names(scene))], dtype=np.float32)
        return (palette[self.label] * self.shade[:, None]).clip(0, 1)


def two_names(scene: Scene) -> tuple[str, str]:
    """The names of its colour and of its second colour, which of a plain solid are the same."""
    return scene.colour, scene.second or scene.colour


def symmetry(shape: str) -> float:
    """Yaw in radians after which the shape, whatever its colours, is the same; 0 for solids of revolution."""
    return math.pi / 2 if shape == "cube" else 0.0


def look(scene: Scene, origin: np.ndarray, directions: np.ndarray, pose: Pose | None = None) -> Seen:
    """What the rays of one camera see of a solid.

    Args:
        scene: the solid.
        origin: `[3]` of the camera, outside of the solid.
        directions: `[N, 3]` of length 1.
        pose: of the solid; None: as it is rendered for a caption.
    """
    pose = pose or Pose()
    start = pose.to_solid(np.asarray(origin, dtype=np.float64)[None])[0].astype(np.float32)
    turned = (np.asarray(directions, dtype=np.float64) @ pose.rotation()).astype(np.float32)
    index, depth = first_hits(scene.shape, start, turned)
    points = (start + depth[:, None] * turned[index]).astype(np.float64)
    lit = np.maximum(normals(scene.shape, points) @ (LIGHT @ pose.rotation()), 0)
    seen = Seen(
        np.zeros(len(turned), dtype=np.uint8),
        np.ones(len(turned), dtype=np.float32),
        np.full((len(turned), 3), np.nan, dtype=np.float32),
    )
    seen.label[index] = 1 + is_second_colour(scene, points)
    seen.shade[index] = AMBIENT + DIFFUSE * lit
    seen.points[index] = points
    return seen


def covered(shape: str, origin: np.ndarray, directions: np.ndarray, pose: Pose) -> np.ndarray:
    """Which rays of one camera hit a solid, `[N]` bool; arguments as for `look`."""
    start = pose.to_solid(np.asarray(origin, dtype=np.float64)[None])[0].astype(np.float32)
    turned = (np.asarray(directions, dtype=np.float64) @ pose.rotation()).astype(np.float32)
    hit = np.zeros(len(turned), dtype=bool)
    hit[first_hits(shape, start, turned)[0]] = True
    return hit


def coordinates(shape: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points `[N, 3]` of the solid's frame are on its surface.

    Returns:
        Along its axis `[N]`: the height in world units, or of a torus turns of its tube; around it `[N]`, radians.
    """
    around = np.arctan2(points[:, 0], points[:, 2])
    if shape == "torus":
        return np.arctan2(points[:, 1], np.hypot(points[:, 0], points[:, 2]) - 0.65) / (2 * np.pi), around
    return points[:, 1], around


def best_yaw(scene: Scene, points: np.ndarray, second: np.ndarray, steps: int = 72) -> tuple[float, float]:
    """How far a pattern is turned about the vertical axis.

    Args:
        scene: the solid.
        points: `[N, 3]` of the solid's frame, on its surface.
        second: `[N]` share of the second colour that is there, 0 to 1.
        steps: yaws that are tried, over the symmetry of the shape, or a whole turn of solids of revolution.

    Returns:
        The yaw in radians with which the solid's pattern agrees best; the agreement: the mean of the shares that the
        pattern would have there, 0 to 1.
    """
    # A cube can only be turned by quarters without changing its shape.
    period = symmetry(scene.shape)
    yaws = np.arange(4) * period if period else np.arange(steps) * (2 * np.pi / steps)

    def agreement(yaw: float) -> float:
        there = is_second_colour(scene, Pose(yaw=yaw).to_solid(points))
        return float(np.where(there, second, 1 - second).mean())

    found = [agreement(yaw) for yaw in yaws]
    best = int(np.argmax(np.round(found, 6)))
    return float(yaws[best]), found[best]


def surface_points(shape: str, count: int, seed: int = 0) -> np.ndarray:
    """Random points on a solid, `[count, 3]` float64 in its own frame, evenly by area."""
    rng = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    total = 0
    while total < count:
        # A thin shell about the surface holds points in proportion to its area.
        points = rng.uniform(-1.1, 1.1, (4 * count, 3))
        near = points[np.abs(signed_distance(shape, points)) < 0.02]
        for _ in range(2):
            near = near - signed_distance(shape, near)[:, None] * normals(shape, near)
        found.append(near)
        total += len(near)
    return np.concatenate(found)[:count]
