"""Measures of a made object against the solid that was asked for, on arrays: shape, colours, pattern, shares.

Nothing here knows whose object it is: a solid is a function that gives the signed distance of points in its own frame,
`[N, 3]` -> `[N]`, negative inside. Lengths are in world units, y is the vertical axis, colours are sRGB in [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Distance = Callable[[np.ndarray], np.ndarray]
# How far a pose may be from the solid as it was asked for: without limits a speck would be a small solid.
SCALES = (0.75, 1.3)
LARGEST_SHIFT = 0.4
# Blocks along an axis of the lattices on which a pose is searched, and then refined.
COARSE, FINE = 16, 32
LATTICE = 33  # points along an axis of the lattice that says how much of a solid is outside of the box
# Spectrum of a pattern: periods per unit of length that are looked at, and whole periods per turn.
ALONG = np.arange(0.0, 4.01, 0.05)
AROUND = np.arange(0, 13)
PERIODS_OFF = 0.25  # a pattern may have one stripe in four more or less
PERIODS_NEAR = 0.1  # where a quarter of them is less than this, it may be so many off
SLOWEST = 0.4  # periods per unit along the axis: what is slower is a gradient and not a pattern


@dataclasses.dataclass(frozen=True)
class Pose:
    """Where a solid stands: turned about the vertical axis, scaled, then shifted.

    Attributes:
        yaw: radians; positive turns the front (+z) towards +x.
        scale: factor of its size.
        shift: of its centre, world units.
    """

    yaw: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def rotation(self) -> np.ndarray:
        """The turn alone, `[3, 3]`: from the solid's frame to the world's."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])

    def to_solid(self, points: np.ndarray) -> np.ndarray:
        """Points of the world `[N, 3]` in the solid's frame `[N, 3]`."""
        turn = self.rotation().astype(points.dtype)
        return (points - np.asarray(self.shift, dtype=points.dtype)) @ turn / points.dtype.type(self.scale)

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Points of the solid's frame `[N, 3]` in the world `[N, 3]`."""
        return points @ self.rotation().T * self.scale + np.asarray(self.shift)

    def larger(self, factor: float) -> Pose:
        """The same, `factor` times as large about its own centre."""
        return dataclasses.replace(self, scale=self.scale * factor)


def lattice_points(resolution: int, bound: float) -> np.ndarray:
    """The points of a lattice over [−bound, bound]³, ends included, `[R·R·R, 3]` float32, z the fastest."""
    axis = np.linspace(-bound, bound, resolution, dtype=np.float32)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def intersection_over_union(a: np.ndarray, b: np.ndarray, beyond: float = 0.0) -> float:
    """Of two sets, given as arrays of one shape: bool, or shares in [0, 1]. 0 where both are empty.

    Args:
        a: one of them.
        b: the other.
        beyond: what one of them has, and the other has not, outside of what the arrays are of; in their elements.
    """
    union = float(np.maximum(a, b).sum()) + beyond
    return float(np.minimum(a, b).sum()) / union if union else 0.0


@dataclasses.dataclass(frozen=True)
class Filled:
    """A solid as the points inside of it.

    Attributes:
        points: `[N, 3]` float32, evenly, in its own frame.
        volume: that each of them stands for.
    """

    points: np.ndarray
    volume: float

    def beyond(self, pose: Pose, bound: float) -> float:
        """The volume that lies outside of the box [−bound, bound]³ in a pose, in the world's units."""
        out = (np.abs(pose.to_world(self.points)) > bound).any(axis=1)
        return float(out.sum()) * self.volume * pose.scale**3


def fill(distance: Distance) -> Filled:
    """The points of a lattice that are inside of a solid, which fits into [−1.2, 1.2]³."""
    points = lattice_points(LATTICE, 1.2)
    return Filled(points[distance(points) < 0], (2.4 / (LATTICE - 1)) ** 3)


def largest_body(solid: np.ndarray) -> float:
    """Share of a volume `[R, R, R]` bool that its largest connected body has (cells that share a face); 0 if empty."""
    from scipy import ndimage

    labels, count = ndimage.label(solid)
    return float(np.bincount(labels.ravel())[1:].max() / solid.sum()) if count else 0.0


def align(solid: np.ndarray, bound: float, distance: Distance, period: float = 0.0) -> Pose:
    """The pose in which a solid overlaps best with a volume.

    Searched is the intersection over union on coarse cells (Nelder and Mead's simplex, from several starts), within
    `SCALES` and `LARGEST_SHIFT`; what the solid has outside of the box, where no volume can be, counts as missing. It
    is deterministic.

    Args:
        solid: `[R, R, R]` bool or shares, over [−bound, bound]³, ends included; indexed x, y, z.
        bound: half the side of the box.
        distance: of the solid, which fits into [−1.2, 1.2]³.
        period: yaw after which the solid is the same again, radians; 0: it is a solid of revolution.

    Raises:
        ValueError: an empty volume, or one that is not a cube.
    """
    from scipy import optimize

    if solid.ndim != 3 or len(set(solid.shape)) != 1 or not solid.any():
        raise ValueError(f"align: solid: expected a cube with something in it, got {list(solid.shape)}")

    whole = fill(distance)

    def problem(count: int) -> tuple[Callable[[np.ndarray], float], np.ndarray, np.ndarray, float]:
        shares, points, cell = _blocks(solid, bound, count)

        def misfit(x: np.ndarray) -> float:
            pose = _pose(x)
            away = distance(pose.to_solid(points)) * np.float32(pose.scale)
            beyond = whole.beyond(pose, bound) / cell**3
            return -intersection_over_union(shares, np.clip(0.5 - away / cell, 0, 1), beyond)

        return misfit, shares, points, cell

    misfit, shares, points, cell = problem(COARSE)
    own = np.clip(0.5 - distance(points) / cell, 0, 1)
    scale = float(np.clip((shares.sum() / max(float(own.sum()), 1e-9)) ** (1 / 3), *SCALES))
    centre = (shares @ points - scale * (own @ points) * shares.sum() / max(float(own.sum()), 1e-9)) / shares.sum()
    centre = np.clip(centre, -0.9 * LARGEST_SHIFT, 0.9 * LARGEST_SHIFT)
    size = min(max(scale, SCALES[0] + 0.02), SCALES[1] - 0.02)
    yaws = [period * part for part in (0, 0.25, 0.5, 0.75)] if period else [0.0]
    places = [(centre, size, yaw) for yaw in yaws] + [((0.0, 0.0, 0.0), 1.0, 0.0)]
    starts = [np.array([*place, size, *([yaw] if period else [])]) for place, size, yaw in places]
    limits = [(-LARGEST_SHIFT, LARGEST_SHIFT)] * 3 + [SCALES] + ([(-period, 2 * period)] if period else [])

    def searched(function: Callable[[np.ndarray], float], start: np.ndarray, step: float, most: int) -> Any:
        steps = np.array([step, step, step, -step if start[3] > 1 else step, *([0.2 * period] if period else [])])
        corners = np.vstack([start, start + np.diag(steps)])
        options = {"initial_simplex": corners, "maxfev": most, "xatol": 1e-4, "fatol": 1e-5}
        return optimize.minimize(function, start, method="Nelder-Mead", bounds=limits, options=options)

    best = min((searched(misfit, start, 0.08, 160) for start in starts), key=lambda found: found.fun)
    found = _pose(searched(problem(FINE)[0], best.x, 0.015, 120).x)
    return dataclasses.replace(found, yaw=round(found.yaw, 6) % period) if period else found


def _pose(x: np.ndarray) -> Pose:
    return Pose(float(x[4]) if len(x) > 4 else 0.0, float(x[3]), (float(x[0]), float(x[1]), float(x[2])))


def _blocks(solid: np.ndarray, bound: float, count: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean over blocks of the lattice, at most `count` along an axis: shares [K], centres [K, 3], a block's side."""
    resolution = len(solid)
    side = -(-resolution // count)
    whole = -(-resolution // side)
    padded = np.zeros((whole * side,) * 3, dtype=np.float32)
    padded[:resolution, :resolution, :resolution] = solid
    shares = padded.reshape(whole, side, whole, side, whole, side).mean(axis=(1, 3, 5)).ravel()
    spacing = 2 * bound / (resolution - 1)
    axis = (-bound + spacing * (side * np.arange(whole) + (side - 1) / 2)).astype(np.float32)
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return shares, centres, spacing * side


def chamfer(found: np.ndarray, asked: np.ndarray, distance: Distance) -> float:
    """Chamfer distance: the mean of the two mean distances, from surface to surface; in the unit of the points.

    From the found surface to the solid distances are exact; back they are to the nearest of the points, so that even
    the solid itself has about a quarter of their spacing.

    Args:
        found: points `[N, 3]` on the found surface, in the solid's frame.
        asked: points `[M, 3]` on the solid.
        distance: of the solid.
    """
    from scipy.spatial import cKDTree

    back, _ = cKDTree(found).query(asked)
    return 0.5 * (float(np.abs(distance(found)).mean()) + float(back.mean()))


def srgb_to_lab(colours: np.ndarray) -> np.ndarray:
    """CIELAB (D65, 2°) of sRGB colours `[..., 3]` in [0, 1], after IEC 61966-2-1 and CIE 15; `[..., 3]`."""
    x = np.asarray(colours, dtype=np.float64).clip(0, 1)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    xyz = linear @ matrix.T / matrix.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def colour_difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """ΔE*ab of CIE 1976 between CIELAB colours `[..., 3]`, broadcast: `[...]`; about 2.3 can just be told apart."""
    return np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1)


def nearest_name(lab: np.ndarray, names: Mapping[str, Sequence[float]]) -> str:
    """The name whose sRGB colour is nearest (ΔE*ab) to a CIELAB colour `[3]`."""
    return min(names, key=lambda name: float(colour_difference(lab, srgb_to_lab(np.array(names[name])))))


def mixtures(colours: np.ndarray, first: np.ndarray, second: np.ndarray, steps: int = 17) -> tuple[Any, Any]:
    """The mixture of two colours that comes nearest to each of N: what a blurred border between them shows.

    Args:
        colours: `[N, 3]` sRGB.
        first: `[3]` sRGB.
        second: `[3]` sRGB; the mixture is linear in sRGB values.
        steps: mixtures that are tried, both ends included.

    Returns:
        Share of the second colour `[N]`, 0 to 1; ΔE*ab to that mixture `[N]`.
    """
    shares = np.linspace(0, 1, steps)
    line = srgb_to_lab((1 - shares[:, None]) * np.asarray(first) + shares[:, None] * np.asarray(second))
    away = colour_difference(srgb_to_lab(colours)[:, None], line)
    nearest = away.argmin(axis=1)
    return shares[nearest], away[np.arange(len(away)), nearest]


@dataclasses.dataclass(frozen=True)
class Wave:
    """The strongest wave of a pattern.

    Attributes:
        along: periods per unit along the axis.
        around: whole periods per turn.
        amplitude: of the wave.
    """

    along: float
    around: int
    amplitude: float

    def kind(self) -> str:
        """`rings` (along the axis only), `sectors` (around it only) or `checks` (both)."""
        return "rings" if not self.around else "sectors" if self.along < SLOWEST else "checks"

    def alike(self, other: Wave) -> bool:
        """Whether a wave has the kind of another and, within a quarter or `PERIODS_NEAR`, its numbers of periods."""
        pairs = ((self.along, other.along), (self.around, other.around))
        return self.kind() == other.kind() and all(abs(a - b) <= max(PERIODS_NEAR, PERIODS_OFF * b) for a, b in pairs)


def strongest_wave(values: np.ndarray, along: np.ndarray, around: np.ndarray, step: float = 0.0) -> Wave:
    """The wave that a pattern on a surface agrees with most, by the spectrum over both its coordinates.

    Args:
        values: `[N]`, of the pattern, at any points.
        along: `[N]` their places along the axis.
        around: `[N]` their angles, radians.
        step: between the periods per unit that are tried, where the axis is itself closed (a torus' tube: 1); 0: small.
    """
    frequencies = np.arange(0.0, ALONG[-1] + step / 2, step) if step else ALONG
    signal = values - values.mean()
    columns = np.exp(2j * np.pi * frequencies * along[:, None]) * signal[:, None] / max(1, len(signal))
    turns = np.exp(1j * AROUND * around[:, None])
    # A chequered surface has its wave in both directions of turning.
    power = np.abs(columns.T @ turns) ** 2 + np.abs(columns.T @ turns.conj()) ** 2
    power[:, 0] /= 2
    power[frequencies < SLOWEST, 0] = 0
    row, column = np.unravel_index(power.argmax(), power.shape)
    return Wave(float(frequencies[row]), int(AROUND[column]), float(2 * math.sqrt(power[row, column])))


def wilson_interval(hits: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share, `hits` of `count`; of 95 % for the default `z`. (0, 1) of none."""
    if not count:
        return 0.0, 1.0
    share, square = hits / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
