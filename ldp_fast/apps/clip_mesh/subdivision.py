"""Loop's subdivision of closed triangle meshes as sparse matrices: surface points are linear in the control points.

C. Loop 1987, Smooth Subdivision Surfaces Based on Triangles; CLIP-Mesh optimises the control points of such a surface,
so that what one pixel asks for moves a smooth patch and not a single spike.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Edges:
    """The edges of a closed mesh.

    Attributes:
        ends: [E, 2] vertices of each edge, the lower number first.
        of_face: [F, 3] edge k of a face, from its corner k to corner k + 1.
        across: [F, 3] the face on the other side of that edge.
        opposite: [E, 2] the corners opposite to each edge, one in each of its two faces.
    """

    ends: np.ndarray
    of_face: np.ndarray
    across: np.ndarray
    opposite: np.ndarray


def edges_of(faces: np.ndarray) -> Edges:
    """The edges of a closed mesh.

    Args:
        faces: [F, 3] vertices, counterclockwise seen from outside.

    Raises:
        ValueError: an edge that does not have two faces.
    """
    count = len(faces)
    pairs = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    ends, of_face, faces_of = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
    if not (faces_of == 2).all():
        raise ValueError(f"faces: expected a closed mesh, got one with an edge of {faces_of[faces_of != 2][0]} faces")
    sides = np.argsort(of_face.reshape(-1), kind="stable").reshape(-1, 2)
    across = np.empty(3 * count, dtype=np.int64)
    across[sides] = sides[:, ::-1] // 3
    opposite = faces[:, [2, 0, 1]].reshape(-1)[sides]
    return Edges(ends, of_face.reshape(-1, 3), across.reshape(-1, 3), opposite)


def subdivide(faces: np.ndarray, count: int) -> tuple[np.ndarray, Any]:
    """One step of Loop's subdivision.

    Args:
        faces: [F, 3] of a closed mesh.
        count: N, vertices that it has.

    Returns:
        Faces [4 F, 3], whose first N vertices are the old ones; the matrix [N + E, N] (scipy's CSR, float64) that takes
        old vertices to new ones. Its rows sum to 1.
    """
    from scipy import sparse

    edges = edges_of(faces)
    first, second = edges.ends.T
    total = len(edges.ends)
    neighbours = _neighbours(edges, count)
    weight = _ring_weights(neighbours)
    kept = sparse.diags(1 - weight * neighbours.sum(1)) + sparse.diags(weight) @ neighbours
    rows = np.repeat(np.arange(total), 4)
    columns = np.stack([first, second, *edges.opposite.T], axis=1).reshape(-1)
    made = sparse.csr_matrix((np.tile([3 / 8, 3 / 8, 1 / 8, 1 / 8], total), (rows, columns)), (total, count))
    middle = edges.of_face + count
    a, b, c = faces.T
    ab, bc, ca = middle.T
    parts = [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]]
    return np.concatenate([np.stack(part, axis=1) for part in parts]), sparse.vstack([kept, made]).tocsr()


def limit(faces: np.ndarray, count: int) -> Any:
    """The matrix [N, N] (scipy's CSR, float64) that takes vertices to where endless subdivision would take them."""
    from scipy import sparse

    neighbours = _neighbours(edges_of(faces), count)
    weight = 1 / (3 / (8 * _ring_weights(neighbours)) + neighbours.sum(1))
    return (sparse.diags(1 - weight * neighbours.sum(1)) + sparse.diags(weight) @ neighbours).tocsr()


def mean_of_neighbours(faces: np.ndarray, count: int) -> Any:
    """The matrix [N, N] (scipy's CSR, float64) that takes vertices to the mean of those next to them."""
    from scipy import sparse

    neighbours = _neighbours(edges_of(faces), count)
    return (sparse.diags(1 / neighbours.sum(1)) @ neighbours).tocsr()


def _neighbours(edges: Edges, count: int) -> Any:
    from scipy import sparse

    first, second = edges.ends.T
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), (count, count))


def _ring_weights(neighbours: Any) -> np.ndarray:
    """Loop's β: the weight of each neighbour of a vertex that stays."""
    valence = neighbours.sum(1)
    return (5 / 8 - (3 / 8 + np.cos(2 * np.pi / valence) / 4) ** 2) / valence
