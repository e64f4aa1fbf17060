"""A ball's surface with a texture on it: what is optimised, and what is drawn and written of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .subdivision import limit, mean_of_neighbours, subdivide

# CLIP-Mesh's blur of the texture before it is drawn, in texels; its kernel is cut off at two texels.
BLUR, REACH = 3.0, 2
# Texels that are looked at together when faces are drawn on the texture of a file.
AT_ONCE = 500_000
# What a corner's share of a place may be below 0, for rounding.
_EDGE = 1e-9


class TexturedMesh:
    """A closed mesh whose vertices follow control points, coloured by a texture around it.

    The control points are a subdivided icosahedron's. The drawn vertices are points of Loop's limit surface of them,
    `refinement` subdivisions finer. The texture lies around the ball that it starts as, like a map of the world: its
    columns go around from the back (azimuth 180°) over the front to the back, its rows from the top down.

    Args:
        level: subdivisions of the icosahedron; 10·4^level + 2 control points.
        refinement: how many more the drawn mesh has.
        texels: along a side of the texture.
        radius: of the ball, world units.
        device: where.

    Attributes:
        control: [n, 3] float32, world units; a parameter.
        texture: [3, texels, texels] float32 in [0, 1]; a parameter.
        faces: [F, 3] of the drawn mesh, counterclockwise seen from outside; on the CPU, int64.
        uv: [N, 2] float64 places of the drawn vertices on the texture, from 0 to 1, v upwards.
    """

    def __init__(self, level: int, refinement: int, texels: int, radius: float, device: torch.device | str = "cpu"):
        import trimesh

        ball = trimesh.creation.icosphere(level)
        faces, points = np.asarray(ball.faces, dtype=np.int64), np.asarray(ball.vertices)
        self.device = torch.device(device)
        self._means = _Linear(mean_of_neighbours(faces, len(points)), self.device)
        matrix = None
        for _ in range(refinement):
            count = len(points) if matrix is None else matrix.shape[0]
            faces, step = subdivide(faces, count)
            matrix = step if matrix is None else step @ matrix
        last = limit(faces, len(points) if matrix is None else matrix.shape[0])
        matrix = last if matrix is None else last @ matrix
        self.faces = faces
        self._triangles = torch.from_numpy(faces).to(self.device)
        self._surface = _Linear(matrix, self.device)
        self.uv = places_on_map(matrix @ points)
        self._texels, self._shares = (x.to(self.device) for x in _bilinear(self.uv, texels))
        # The limit surface lies within its control points.
        scale = radius / float(np.linalg.norm(matrix @ points, axis=1).mean())
        self.control = torch.nn.Parameter(torch.from_numpy(scale * points).float().to(self.device))
        self.texture = torch.nn.Parameter(torch.full((3, texels, texels), 0.5, device=self.device))

    def positions(self) -> Tensor:
        """[N, 3] of the drawn vertices, world units, with their graph."""
        return self._surface(self.control)

    def normals(self, positions: Tensor) -> Tensor:
        """[N, 3] outwards, of length 1: the mean of the faces around each vertex by their areas."""
        a, b, c = (positions[self._triangles[:, k]] for k in range(3))
        across = torch.linalg.cross(b - a, c - a)
        total = torch.zeros_like(positions)
        for k in range(3):
            total = total.index_add(0, self._triangles[:, k], across)
        return F.normalize(total, dim=1)

    def smooth_texture(self) -> Tensor:
        """The texture as it is drawn, [3, texels, texels]: blurred, around the ball without a seam."""
        steps = torch.arange(-REACH, REACH + 1, device=self.device, dtype=torch.float32)
        weights = (-0.5 * (steps / BLUR).square()).exp()
        weights = (weights / weights.sum()).expand(3, 1, 1, -1)
        around = F.conv2d(F.pad(self.texture[None], [REACH, REACH, 0, 0], mode="circular"), weights, groups=3)
        down = F.pad(around, [0, 0, REACH, REACH], mode="replicate")
        return F.conv2d(down, weights.transpose(2, 3), groups=3)[0]

    def colours(self) -> Tensor:
        """[N, 3] of the drawn vertices in [0, 1], without light."""
        flat = self.smooth_texture().flatten(1).T
        return (flat[self._texels] * self._shares[..., None]).sum(1)

    @torch.no_grad()
    def written_texture(self) -> np.ndarray:
        """The texture for a file, [texels, texels, 3] in [0, 1].

        Texels that a drawn vertex lies between are those of `smooth_texture`. No picture shows the others, which would
        still be the noise of the start: they are what is drawn there, the colours of a face's corners between them.
        """
        found = self.smooth_texture().permute(1, 2, 0).cpu().numpy()
        texels = len(found)
        shown = np.zeros(texels * texels, dtype=bool)
        shown[self._texels[self._shares > 0].cpu().numpy()] = True
        original, faces, uv = opened(self.faces, self.uv, texels)
        between = baked(faces, uv, self.colours().cpu().numpy()[original], texels)
        return np.where(shown.reshape(texels, texels, 1), found, between)

    def roughness(self) -> Tensor:
        """Mean square of the uniform Laplacian of the control points, square world units."""
        return (self._means(self.control) - self.control).square().mean()

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Brings the texture back to [0, 1]."""
        self.texture.clamp_(0, 1)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is optimised."""
        return [self.control, self.texture]


def places_on_map(points: np.ndarray) -> np.ndarray:
    """[N, 2] where points [N, 3] about the origin lie on a map: u from azimuth −180° to 180°, v from below upwards."""
    x, y, z = (points / np.linalg.norm(points, axis=1, keepdims=True)).T
    return np.stack([np.arctan2(x, z) / (2 * np.pi) + 0.5, np.arcsin(y.clip(-1, 1)) / np.pi + 0.5], axis=1)


def opened(faces: np.ndarray, uv: np.ndarray, texels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mesh cut along the map's border, for a file that has one place on the texture a vertex.

    Args:
        faces: [F, 3].
        uv: [N, 2] of its vertices.
        texels: along a side of the texture; within half of one of a pole all directions are the same.

    Returns:
        Which vertex each new one is [M]; faces [F, 3] of new ones; their places [M, 2]: u may pass 1, where the map is
        repeated.
    """
    corners = uv[faces]
    u, pole = corners[..., 0], np.abs(corners[..., 1] - 0.5) > 0.5 - 0.5 / texels
    known = np.where(pole, np.nan, u)
    crosses = np.nanmax(known, axis=1) - np.nanmin(known, axis=1) > 0.5
    u = np.where(crosses[:, None] & (u < 0.5), u + 1, u)
    beside = np.nanmean(np.where(pole, np.nan, u), axis=1)
    corners = np.stack([np.where(pole, beside[:, None], u), corners[..., 1]], axis=2)
    keys = np.concatenate([faces.reshape(-1, 1), np.round(corners.reshape(-1, 2), 9)], axis=1)
    _, first, new = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return faces.reshape(-1)[first], new.reshape(-1, 3), corners.reshape(-1, 2)[first]


def baked(faces: np.ndarray, uv: np.ndarray, colours: np.ndarray, texels: int) -> np.ndarray:
    """Draws faces with coloured corners on a map.

    Args:
        faces: [F, 3], see `opened`.
        uv: [M, 2] places of the corners, u past 1 where the map is repeated.
        colours: [M, 3] of the corners.
        texels: T, along a side of the map.

    Returns:
        [T, T, 3] float32; where there is no face, at the poles, the nearest texel's.
    """
    from scipy import ndimage

    # In texels, (0, 0) the middle of the left upper one.
    places = np.stack([uv[:, 0] * texels - 0.5, (1 - uv[:, 1]) * texels - 0.5], axis=1)
    made, filled = np.zeros((texels * texels, 3), dtype=np.float32), np.zeros(texels * texels, dtype=bool)
    corners = places[faces]
    low = np.ceil(corners.min(1) - _EDGE).astype(np.int64)
    sides = (np.floor(corners.max(1) + _EDGE).astype(np.int64) - low + 1).clip(min=0)
    counts = sides.prod(1)
    ends = np.cumsum(counts)
    for first, last in _chunks(ends, AT_ONCE):
        count = counts[first:last]
        face = np.repeat(np.arange(first, last), count)
        number = np.arange(len(face)) - np.repeat(np.cumsum(count) - count, count)
        column, row = (low[face] + np.stack([number % sides[face, 0], number // sides[face, 0]], axis=1)).T
        a, b, c = corners[face].transpose(1, 0, 2)
        area = _cross(b - a, c - a)
        here = np.stack([column, row], axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.stack([_cross(b - here, c - here), _cross(c - here, a - here)], axis=1) / area[:, None]
        shares = np.concatenate([shares, 1 - shares.sum(1, keepdims=True)], axis=1)
        inside = (shares >= -_EDGE).all(1) & (row >= 0) & (row < texels)
        place = row[inside] * texels + column[inside] % texels
        made[place] = (colours[faces[face[inside]]] * shares[inside, :, None]).sum(1)
        filled[place] = True
    empty = ~filled.reshape(texels, texels)
    rows, columns = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return made[rows * texels + columns].clip(0, 1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def _chunks(ends: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of what has the running sums `ends`, each of about `most` in all, and of one at least."""
    first, done = 0, 0
    while first < len(ends):
        last = max(first + 1, int(np.searchsorted(ends, done + most, side="right")))
        yield first, last
        first, done = last, int(ends[last - 1])


def _bilinear(uv: np.ndarray, texels: int) -> tuple[Tensor, Tensor]:
    """The four texels that a place lies between (row · texels + column), and their shares; both [N, 4]."""
    column, row = uv[:, 0] * texels - 0.5, ((1 - uv[:, 1]) * texels - 0.5).clip(0, texels - 1)
    left, above = np.floor(column), np.floor(row).clip(max=max(texels - 2, 0))
    right_share, low_share = column - left, row - above
    indices, shares = [], []
    for down in (0, 1):
        for beside in (0, 1):
            rows = np.minimum(above + down, texels - 1)
            indices.append(rows * texels + (left + beside) % texels)
            shares.append((low_share if down else 1 - low_share) * (right_share if beside else 1 - right_share))
    return (
        torch.from_numpy(np.stack(indices, axis=1).astype(np.int64)),
        torch.from_numpy(np.stack(shares, axis=1)).float(),
    )


class _Linear:
    """A sparse matrix of scipy, to be multiplied with.

    `torch.sparse.mm` turns its matrix around in every backward, which sorts it anew, and on a GPU waits for that.
    """

    def __init__(self, matrix: Any, device: torch.device):
        self.matrix, self.turned = _as_torch(matrix, device), _as_torch(matrix.T, device)

    def __call__(self, x: Tensor) -> Tensor:
        """The product with x [N, C]; gradients flow into x."""
        return cast(Tensor, _Product.apply(x, self))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: _Linear) -> Tensor:
        ctx.linear = linear
        return torch.sparse.mm(linear.matrix, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.sparse.mm(ctx.linear.turned, gradients[0]), None


def _as_torch(matrix: object, device: torch.device) -> Tensor:
    """A sparse matrix of scipy as torch's, float32."""
    from scipy import sparse

    found = sparse.coo_array(matrix)
    index = torch.from_numpy(np.stack(found.coords).astype(np.int64))
    made = torch.sparse_coo_tensor(index, torch.from_numpy(found.data).float(), found.shape, check_invariants=False)
    return made.coalesce().to(device)
