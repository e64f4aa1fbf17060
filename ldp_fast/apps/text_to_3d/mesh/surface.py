"""The surface of a field: densities on a lattice, the level that looks solid, marching cubes, cleaning.

Everything is in world units. What the occupancy grid skips is never rendered, so it counts as empty here too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....errors import UsageError
from ....nerf import OccupancyGrid
from ....reference.occupancy import Grid
from ..pictures.frames import FOOTPRINT

Density = Callable[[Tensor], Tensor]
CHUNK = 2**18
TAUBIN = 8  # iterations
# A ray that absorbs less than this passes an empty place, whatever the level.
FAINTEST = 0.05
KEPT_SHARE = 0.05  # of the largest component's volume: what is smaller floats
# Finer than FOOTPRINT no view of training can see, so that there a field is noise: without smoothing, a torus learned
# from 32×32 views has a hundred and fifty tunnels.
SMOOTHINGS = (0.015, 0.05)  # the least and the most, over the box's half side
LARGEST_VOTED = 160  # points along an axis of the lattice that votes for the level: more need gigabytes


class EmptyField(UsageError):
    """Nothing in a field is dense enough for a surface."""


@dataclasses.dataclass(frozen=True)
class Surface:
    """A closed triangle mesh.

    Attributes:
        vertices: [V, 3] float64.
        faces: [F, 3] int64, counter-clockwise seen from outside.
        level: density at which it was cut, per world unit.
        kept: number of components.
        dropped: number of floaters left out.
        dropped_share: their volume over the volume of all.
    """

    vertices: np.ndarray
    faces: np.ndarray
    level: float
    kept: int
    dropped: int
    dropped_share: float


def rendered_density(field: nn.Module, occupancy: OccupancyGrid | None) -> Density:
    """The density that the renderer sees, [S, 3] -> [S]: the field's, zero where the occupancy grid is empty."""

    @torch.no_grad()
    def density(positions: Tensor) -> Tensor:
        method = getattr(field, "density", None)
        if method is not None:
            found = method(positions, chunk=CHUNK)
        else:
            found = torch.cat([field(part)[0] for part in positions.split(CHUNK)] or [positions.new_empty(0)])
        return found.float()

    if occupancy is None:
        return density
    grid = Grid.of(occupancy.box, occupancy.resolution, occupancy.cascades, occupancy.average)

    @torch.no_grad()
    def masked(positions: Tensor) -> Tensor:
        result = positions.new_zeros(len(positions))
        for start in range(0, len(positions), CHUNK):
            part = positions[start : start + CHUNK]
            cells = grid.cells(part)
            alive = (occupancy.bits[cells >> 3] >> (cells & 7) & 1).bool()
            result[start : start + CHUNK][alive] = density(part[alive])
        return result

    return masked


def density_lattice(density: Density, bound: float, resolution: int, device: torch.device) -> np.ndarray:
    """Densities at resolution³ points from one end of the box to the other, [R, R, R] float64, indexed x, y, z.

    Raises:
        UsageError: densities that are not finite.
    """
    axis = torch.linspace(-bound, bound, resolution, device=device)
    slabs = []
    for x in axis.split(max(1, 2**21 // resolution**2)):
        points = torch.stack(torch.meshgrid(x, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
        slabs.append(density(points).double().cpu().numpy().reshape(-1, resolution, resolution))
    lattice = np.concatenate(slabs)
    bad = int((~np.isfinite(lattice)).sum())
    if bad:
        raise UsageError(
            f"the field has densities that are not finite at {bad} of {lattice.size} points: the run has diverged; "
            f"choose an earlier --checkpoint"
        )
    return lattice


def even_fog(lattice: np.ndarray, spacing: float) -> float:
    """The density up to which everything is fog: twice what fills more than half of the box; 0 if nothing is above.

    Args:
        lattice: [R, R, R] densities.
        spacing: between its points, world units.
    """
    fog = 2 * float(np.median(lattice))
    above = np.maximum(lattice - fog, 0)
    thickest = max(float(np.trapezoid(above, axis=axis).max()) for axis in range(3))
    return fog if -math.expm1(-spacing * thickest) >= FAINTEST else 0.0


def solid_level(lattice: np.ndarray, spacing: float) -> float:
    """An estimate of the density at which the object looks solid: where rays from six sides have lost half their light.

    What fills more than half of the box is fog, and densities count from twice the fog's (unless nothing is left then).

    A ray that enters along an axis has lost half of what it will lose at a point; the density there, but no more than
    half of the highest along the ray (so that an even density is cut at its edge and not in its depth), is the ray's
    vote. Counted are the rays that end opaque (the most opaque ones, if none does). Where rays meet the surface
    straight on the votes are high; at the outline, where they graze what surrounds it, low. The lower quartile shares
    the error out: on soft objects the outline is as much too small as the surface seen straight on is too far out.

    Args:
        lattice: [R, R, R] densities.
        spacing: between its points, world units.

    Raises:
        UsageError: no ray absorbs anything.
    """
    stride = -(-len(lattice) // LARGEST_VOTED)
    lattice, spacing = lattice[::stride, ::stride, ::stride], stride * spacing
    fog = even_fog(lattice, spacing)
    opacity, vote = _votes(np.maximum(lattice - fog, 0), spacing)
    highest = float(opacity.max(initial=0.0))
    if highest < FAINTEST:
        raise EmptyField(
            f"the field is empty: the most opaque ray through it absorbs {100 * highest:.2g} %, and a surface needs "
            f"{100 * FAINTEST:g} %; train longer, or choose another --checkpoint"
        )
    return fog + float(np.quantile(vote[opacity > min(0.5, 0.5 * highest)], 0.25))


def _votes(lattice: np.ndarray, spacing: float) -> tuple[np.ndarray, np.ndarray]:
    """Opacity and vote of every ray along an axis that meets anything (see `solid_level`)."""
    opacities, votes = [], []
    for axis in range(3):
        for direction in (1, -1):
            rays = np.moveaxis(lattice, axis, 0)[::direction].reshape(len(lattice), -1)
            rays = rays[:, rays.max(0) > 0]
            pieces = 0.5 * spacing * (rays[1:] + rays[:-1])
            thickness = np.concatenate([np.zeros((1, rays.shape[1])), np.cumsum(pieces, axis=0)])
            opacity = -np.expm1(-thickness[-1])
            half = -np.log1p(-0.5 * opacity)
            after = np.clip((thickness < half).sum(0), 1, len(rays) - 1)
            column = np.arange(rays.shape[1])
            low, high = thickness[after - 1, column], thickness[after, column]
            part = (half - low) / np.maximum(high - low, 1e-300)
            there = rays[after - 1, column] * (1 - part) + rays[after, column] * part
            votes.append(np.minimum(there, 0.5 * rays.max(0)))
            opacities.append(opacity)
    return np.concatenate(opacities), np.concatenate(votes)


def smoothing_length(orbit: dict[str, float], latents: int, bound: float) -> float:
    """The standard deviation, in world units, of what a training view of so many latents a side cannot see."""
    width = 2 * float(orbit["radius"]) * math.tan(math.radians(float(orbit["fov"])) / 2) / latents
    return float(np.clip(FOOTPRINT * width, SMOOTHINGS[0] * bound, SMOOTHINGS[1] * bound))


def solid_values(
    lattice: np.ndarray, bound: float, level: float, smoothing: float, room: np.ndarray | None = None
) -> np.ndarray:
    """How far inside of the object each point is, its hidden cavities filled: positive where it is solid.

    Args:
        lattice: [R, R, R] densities, from one end of the box to the other.
        bound: half the side of the box.
        level: density of the surface.
        smoothing: standard deviation of a Gaussian over the lattice, world units.
        room: [R, R, R]; where it is below 0.5, nothing is solid, whatever the density. None: no such limit.

    Returns:
        [R + 2, R + 2, R + 2] float64, −0.5 to 0.5 and not 0, with a shell of emptiness around the box.

    Raises:
        UsageError: nothing reaches the level.
    """
    from scipy import ndimage

    highest = float(lattice.max())
    if highest <= level:
        raise UsageError(f"--threshold: expected less than the highest density, {highest:.4g}; got {level:g}")
    spacing = 2 * bound / (len(lattice) - 1)
    # Cut off above, for densities grow by factors from point to point; even densities then end at their edge.
    values = np.clip(lattice / (2 * level), 0.0, 1.0)
    if room is not None:
        values = np.minimum(values, np.clip(room, 0.0, 1.0))
    # A shell of emptiness closes the surface at the box; inside, what nobody can see is filled.
    values = ndimage.gaussian_filter(np.pad(values, 1), smoothing / spacing, mode="constant") - 0.5
    solid = values > 0
    for axis in range(3):
        np.moveaxis(solid, axis, 0)[[0, -1]] = False
    if not solid.any():
        raise EmptyField(
            f"the field is empty: nowhere is its density above {level:.4g} over more than a point of the lattice; "
            f"train longer, choose another --checkpoint, or lower --threshold"
        )
    solid = ndimage.binary_fill_holes(solid)
    # Off zero, so that no two vertices coincide on a point of the lattice and no face is without area.
    found: np.ndarray = np.where(solid, np.maximum(values, 0.01), np.minimum(values, -0.01))
    return found


def cut_surface(
    lattice: np.ndarray, bound: float, level: float, smoothing: float, room: np.ndarray | None = None
) -> Surface:
    """The surface at a density, closed at the box's sides, without floaters and hidden cavities.

    Args, Raises:
        as `solid_values`.
    """
    from skimage import measure

    values = solid_values(lattice, bound, level, smoothing, room)
    spacing = 2 * bound / (len(lattice) - 1)
    found, faces, _, _ = measure.marching_cubes(values, 0.0, gradient_direction="ascent")
    # A surface that leaves the box is cut flat, a hair outside of the lattice so that its vertices do not coincide.
    limit = bound + 1e-3 * spacing
    vertices = np.clip((found.astype(np.float64) - 1) * spacing - bound, -limit, limit)
    return _largest(vertices, faces.astype(np.int64), level)


def _largest(vertices: np.ndarray, faces: np.ndarray, level: float) -> Surface:
    """Keeps the components whose volume is not far below the largest one's."""
    count, label = components(len(vertices), faces)
    of_face = label[faces[:, 0]]
    volumes = np.bincount(of_face, weights=signed_volumes(vertices, faces), minlength=count)
    if volumes.sum() < 0:
        faces, volumes = faces[:, ::-1].copy(), -volumes
    keep = volumes >= KEPT_SHARE * volumes.max()
    total = np.abs(volumes).sum()
    faces = faces[keep[of_face]]
    used = np.unique(faces)
    renumbered = np.zeros(len(vertices), dtype=np.int64)
    renumbered[used] = np.arange(len(used))
    return Surface(
        vertices=vertices[used],
        faces=renumbered[faces],
        level=level,
        kept=int(keep.sum()),
        dropped=int(count - keep.sum()),
        dropped_share=float(np.abs(volumes[~keep]).sum() / total),
    )


def components(vertices: int, faces: np.ndarray) -> tuple[int, np.ndarray]:
    """How many pieces a mesh has, and which one each of its vertices belongs to [V]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    start, end = faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel()
    graph = coo_matrix((np.ones(len(start), dtype=np.int8), (start, end)), shape=(vertices, vertices))
    count, label = connected_components(graph, directed=False)
    return int(count), label


def signed_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Volume of the tetrahedron between the origin and each face [F]; their sum is a closed mesh's volume."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return (a * np.cross(b, c)).sum(1) / 6


def polished(surface: Surface, faces: int) -> tuple[Any, bool]:
    """The surface as a trimesh.Trimesh, without marching cubes' ripples and with no more faces than asked for.

    Args:
        surface: as cut.
        faces: how many to keep at most; 0: all.

    Returns:
        The mesh, and whether it has at most twice as many faces and is closed; else it has all of them.

    Raises:
        ModuleNotFoundError: there are faces to leave out, and fast-simplification is not installed.
    """
    import trimesh

    mesh = trimesh.Trimesh(surface.vertices, surface.faces, process=False)
    # Taubin's filter keeps the volume.
    trimesh.smoothing.filter_taubin(mesh, lamb=0.5, nu=0.53, iterations=TAUBIN)
    if not faces or len(mesh.faces) <= faces:
        return mesh, True
    for target in (faces, 2 * faces):
        fewer = mesh.simplify_quadric_decimation(face_count=target)
        without = fewer.copy()
        without.update_faces(without.nondegenerate_faces())
        without.remove_unreferenced_vertices()
        for candidate in (without, fewer):
            if candidate.is_watertight and candidate.volume > 0:
                return candidate, True
    return mesh, False


def clean_mesh(cut: Callable[[float], Surface], smoothing: float, faces: int) -> tuple[Surface, Any, list[str]]:
    """A surface and its mesh, smoothed as strongly as it takes to have few faces and be closed.

    Args:
        cut: gives the surface, smoothed by a multiple of `smoothing`.
        smoothing: standard deviation, world units.
        faces: how many to keep at most; 0: all.

    Returns:
        Surface, trimesh.Trimesh, and what a user should know, a sentence each.

    Raises:
        UsageError: nothing reaches the level.
    """
    for stronger in (1, 2, 4):
        surface = cut(stronger)
        try:
            mesh, good = polished(surface, faces)
        except ImportError:
            mesh, _ = polished(surface, 0)
            return surface, mesh, ["all faces are kept: pip install fast-simplification for fewer"]
        if good:
            noisy = f"the density is noisy: smoothed over {stronger * smoothing:.2g} world units"
            return surface, mesh, [noisy] if stronger > 1 else []
    return surface, mesh, [f"all faces are kept: with {2 * faces} it would not be watertight"]
