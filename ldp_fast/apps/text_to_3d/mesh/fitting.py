"""The shape that is cut out of a field: at the density for which its silhouettes are the outlines in the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ....errors import UsageError
from . import surface as surfaces
from .outlines import Outlines, seen_outlines

SEARCHED = 64  # points along an axis of the lattice on which levels are compared
STEPS = (2.0, 2.0**0.5)  # factors between levels, the coarse one first
GAIN = 0.004  # a level that agrees better by less is not better
# Where the best level agrees less, the outlines themselves are tried as a limit.
CARVED_BELOW = 0.97
CARVING = (1.0, 0.5, 0.25, 0.125)  # levels then, over the best one without
WORTH_CARVING = 0.005
AGREEING = 0.95  # below, a mesh is not what the pictures show


@dataclasses.dataclass(frozen=True)
class Shape:
    """A field's densities and where its surface is.

    Attributes:
        lattice: [R, R, R] densities from one end of the box to the other.
        bound: half the side of the box.
        level: density of the surface, per world unit.
        smoothing: standard deviation of the Gaussian over the lattice, world units.
        room: [R, R, R] how far inside of the outlines the lattice's points are (`Outlines.room`), if these limit the
            surface, else None.
        outlines: what it was compared with.
    """

    lattice: np.ndarray
    bound: float
    level: float
    smoothing: float
    room: np.ndarray | None
    outlines: Outlines

    def surface(self, stronger: float = 1.0) -> surfaces.Surface:
        """The surface, smoothed by a multiple of `smoothing`.

        Raises:
            UsageError: nothing reaches the level.
        """
        return surfaces.cut_surface(self.lattice, self.bound, self.level, stronger * self.smoothing, self.room)

    def solid(self) -> np.ndarray:
        """[R, R, R] bool: which of the lattice's points are inside of the surface, floaters included.

        Raises:
            UsageError: nothing reaches the level.
        """
        values = surfaces.solid_values(self.lattice, self.bound, self.level, self.smoothing, self.room)
        return np.asarray(values[1:-1, 1:-1, 1:-1] > 0)

    def agreement(self, vertices: np.ndarray, faces: np.ndarray) -> float:
        """`Outlines.agreement` of a mesh."""
        return self.outlines.agreement(torch.from_numpy(vertices), torch.from_numpy(faces.astype(np.int64)))


def shape_of(scene: Any, resolution: int, threshold: float | None = None) -> Shape:
    """The shape of a scene's object.

    Args:
        scene: a Scene: field, occupancy, orbit, render.
        resolution: points of the density's lattice along an axis.
        threshold: density of the surface, per world unit; None: the one whose silhouettes agree best with the
            outlines, from `solid_level` on.

    Raises:
        UsageError: an empty field, densities that are not finite, a threshold that nothing reaches.
    """
    device = next(scene.field.parameters(), torch.empty(0)).device
    bound = float(scene.field.bound)
    density = surfaces.rendered_density(scene.field, scene.occupancy)
    lattice = surfaces.density_lattice(density, bound, resolution, device)
    # Refinement trains pixels, but what they show comes from latents.
    smoothing = surfaces.smoothing_length(scene.orbit, getattr(scene, "latent_size", scene.size), bound)
    spacing = 2 * bound / (resolution - 1)
    fog = surfaces.even_fog(lattice, spacing)
    if threshold is not None:
        surfaces.solid_values(lattice, bound, threshold, smoothing)  # fails before anything is rendered
        return Shape(lattice, bound, threshold, smoothing, None, seen_outlines(scene, fog / 2))
    level = surfaces.solid_level(lattice, spacing)
    return _fitted(Shape(lattice, bound, level, smoothing, None, seen_outlines(scene, fog / 2)), fog)


def _fitted(first: Shape, fog: float) -> Shape:
    """The shape at the best level from a first one on, limited by the outlines where that helps and no level does."""
    bound, size, outlines = first.bound, min(SEARCHED, len(first.lattice)), first.outlines
    # Without its smoothing, a mesh of hard edges would stand out by half a point of its lattice.
    smoothing = max(first.smoothing, 2 * bound / (size - 1))
    coarse = dataclasses.replace(first, lattice=_resampled(first.lattice, size), smoothing=smoothing)

    def level(factor: float) -> float:
        return fog + factor * (first.level - fog)

    def agreement(factor: float, room: np.ndarray | None = None) -> float:
        shape = dataclasses.replace(coarse, level=level(factor), room=room)
        try:
            surface = shape.surface()
        except UsageError:
            return -1.0
        return shape.agreement(surface.vertices, surface.faces)

    factor, found = climb(agreement)
    room = None
    if found < CARVED_BELOW:
        axis = torch.linspace(-bound, bound, size)
        points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
        limit = outlines.room(points).double().numpy().reshape(size, size, size)
        tried = {x * factor: agreement(x * factor, limit) for x in CARVING}
        best = max(tried.values())
        if best > found + WORTH_CARVING:
            # What the outlines leave open, hollows above all, is cut by the density: as high a one as agrees.
            factor = max(x for x, value in tried.items() if value >= best - GAIN)
            room = _resampled(limit, len(first.lattice))
    return dataclasses.replace(first, level=level(factor), room=room)


def climb(agreement: Callable[[float], float]) -> tuple[float, float]:
    """The factor, from 1 upwards or downwards, with the best value, and the value; 1 where none is better by `GAIN`."""
    best, tried = 1.0, {1.0: agreement(1.0)}
    for step in STEPS:
        while True:
            for factor in (best * step, best / step):
                if factor not in tried:
                    tried[factor] = agreement(factor)
            better = max((best * step, best / step), key=lambda x: tried[x])
            if tried[better] <= tried[best] + GAIN:
                break
            best = better
    return best, tried[best]


def _resampled(lattice: np.ndarray, size: int) -> np.ndarray:
    """Linear between the points, [size, size, size], from one end to the other."""
    from scipy import ndimage

    if len(lattice) == size:
        return lattice
    resampled: np.ndarray = ndimage.zoom(lattice, size / len(lattice), order=1, mode="nearest")
    return resampled
