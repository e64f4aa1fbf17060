"""Colours of a mesh from decoded views: unwrapping, rasterising, baking.

A texel takes the mean of the views that see it, weighted towards those that look at it straight on. Views are told
apart by a depth buffer of the mesh itself, so that nothing shines through to the back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....nerf import Cameras
from ..pictures.frames import render_views

# Elevation in degrees, and how many views around; from above and below too, for the texture covers everything.
RINGS = ((-65.0, 4), (-25.0, 8), (10.0, 12), (45.0, 8), (80.0, 4))
VIEWS_AT_ONCE = 6
CANDIDATES = 2**22  # pixels of bounding boxes at a time
BUFFER = 256  # sides of the depth buffer, at least
GRAZING = 0.15  # cosine between normal and view below which a view says nothing
SHARPNESS = 4  # power of that cosine in a view's weight
UNSAFE = 0.01  # weight next to an outline, where the pictures' blur mixes in what lies behind
SEEN = 1e-5  # total weight from which on a texel counts as seen


@dataclasses.dataclass(frozen=True)
class Unwrapped:
    """A mesh cut open for a texture.

    Attributes:
        original: [W] which vertex of the mesh each new vertex is.
        faces: [F, 3] of new vertices.
        uv: [W, 2] in [0, 1], v upwards.
    """

    original: np.ndarray
    faces: np.ndarray
    uv: np.ndarray


def unwrap(vertices: np.ndarray, faces: np.ndarray, size: int) -> Unwrapped:
    """Cuts a mesh into charts and packs them into a square of size × size texels.

    Raises:
        ModuleNotFoundError: xatlas is not installed.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    packing.resolution, packing.padding = size, 2
    atlas.generate(charts, packing)
    original, corners, uv = atlas[0]
    return Unwrapped(original.astype(np.int64), corners.astype(np.int64), uv.astype(np.float64))


def rasterise(corners: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The pixels whose centres lie in triangles.

    Args:
        corners: [F, 3, 2] x and y in pixels from the left upper corner; triangles with NaN are left out.
        height, width: of the picture.

    Yields:
        triangle [K], pixel (row · width + column) [K], barycentric coordinates [K, 3], for some of the triangles.
    """
    limit = corners.new_tensor([width, height])
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0)
    high = torch.minimum((corners.amax(1) - 0.5).floor(), limit - 1)
    sides = (high - low + 1).nan_to_num(0.0).clamp(min=0).long()
    areas = sides.prod(1)
    live = areas.nonzero()[:, 0]
    part = areas[live].cumsum(0) // CANDIDATES
    for triangles in live.split(torch.bincount(part).tolist()) if len(live) else ():
        count = areas[triangles]
        triangle = triangles.repeat_interleave(count)
        within = torch.arange(len(triangle)) - (count.cumsum(0) - count).repeat_interleave(count)
        columns = sides[triangle, 0]
        x = low[triangle, 0].long() + within % columns
        y = low[triangle, 1].long() + within // columns
        point = torch.stack([x, y], dim=1).to(corners.dtype) + 0.5
        a, b, c = corners[triangle].unbind(1)
        area = _cross(b - a, c - a)
        weights = torch.stack([_cross(b - point, c - point), _cross(c - point, a - point)], dim=1) / area[:, None]
        weights = torch.cat([weights, 1 - weights.sum(1, keepdim=True)], dim=1)
        inside = (weights >= -1e-4).all(1)  # false for triangles without area, whose weights are not numbers
        yield triangle[inside], (y * width + x)[inside], weights[inside]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def texels(mesh: Unwrapped, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """What each texel shows: texel (row · size + column) [T], triangle [T], barycentric coordinates [T, 3]."""
    uv = torch.from_numpy(mesh.uv).float()
    places = torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=1) * size
    parts = list(rasterise(places[torch.from_numpy(mesh.faces)], size, size))
    triangle, texel, weights = (torch.cat(column) for column in zip(*parts, strict=True))
    # A texel on a common edge is both triangles': one of them will do.
    order = torch.argsort(texel, stable=True)
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = texel[order][1:] != texel[order][:-1]
    chosen = order[first]
    return texel[chosen], triangle[chosen], weights[chosen]


def baking_cameras(orbit: dict[str, float]) -> Cameras:
    """Views from all around, at the distance and with the field of view of a scene's orbit."""
    azimuths, elevations = [], []
    for ring, (elevation, count) in enumerate(RINGS):
        azimuths += [(i + 0.5 * (ring % 2)) * 360 / count for i in range(count)]
        elevations += [elevation] * count
    return Cameras.orbit(azimuths, elevations, float(orbit["radius"]), float(orbit["fov"]))


@torch.no_grad()
def bake(scene: Any, vertices: np.ndarray, faces: np.ndarray, points: Tensor, normals: Tensor) -> tuple[Tensor, float]:
    """Colours of points on a mesh, from decoded views of the scene.

    Args:
        scene: has `render`, `decode` and `orbit`.
        vertices: [V, 3] of the mesh that hides what lies behind it.
        faces: [F, 3].
        points: [T, 3] on the mesh.
        normals: [T, 3] outwards, of length 1.

    Returns:
        Colours [T, 3] in [0, 1]; the share of the points that a view has seen (the others are like their neighbours).
    """
    cameras = baking_cameras(scene.orbit)
    device = next(scene.field.parameters(), torch.empty(0)).device
    corners, triangles = torch.from_numpy(vertices).float(), torch.from_numpy(faces)
    colours, total = torch.zeros(len(points), 3), torch.zeros(len(points))
    for start in range(0, len(cameras), VIEWS_AT_ONCE):
        some = cameras[start : start + VIEWS_AT_ONCE]
        out = render_views(scene, some.to(device), scene.display_size)
        pictures = torch.cat([scene.decode(x).float().cpu() for x in out.latents.split(1)])
        opacity = F.interpolate(out.opacity.float().cpu(), size=pictures.shape[-2:], mode="bilinear")
        latents = out.latents.shape[-1]
        for camera, picture in zip(some, torch.cat([pictures, opacity], dim=1), strict=True):
            _add_view(camera, picture, latents, (corners, triangles), (points, normals), colours, total)
    seen = total > SEEN
    colours[seen] /= total[seen, None]
    if not seen.any():
        return colours.fill_(0.5), 0.0
    _fill(colours, seen, points)
    return colours.clamp_(0, 1), float(seen.float().mean())


def _add_view(
    camera: Cameras,
    picture: Tensor,
    latents: int,
    mesh: tuple[Tensor, Tensor],
    surface: tuple[Tensor, Tensor],
    colours: Tensor,
    total: Tensor,
) -> None:
    """Adds what one view [4, H, W] (RGB and opacity) shows of the points, weighted, to `colours` and `total`."""
    points, normals = surface
    towards = camera.positions.float() - points
    cosine = F.cosine_similarity(towards, normals, dim=1)
    facing = (cosine > GRAZING).nonzero()[:, 0]
    place, depth = project(camera, points[facing])
    size = max(BUFFER, *picture.shape[-2:])
    nearest = nearness(camera, *mesh, size)
    cosine = cosine[facing]
    # A pixel's depth changes by this much on a slope, and the pictures are not sharper than a latent is wide.
    pixel = depth / (size * float(camera.focal[0, 0]))
    slope = pixel * (1 - cosine.square()).sqrt() / cosine
    reach = max(1, size // (2 * latents))
    row, column = ((place[:, i] * size).long().clamp(0, size - 1) for i in (1, 0))
    inside = ((place > 0) & (place < 1)).all(1)
    visible = inside & (1 / nearest[row, column] > depth - 2 * (pixel + slope))
    around = F.max_pool2d(nearest[None], 2 * reach + 1, 1, reach)[0][row, column]
    outline = F.max_pool2d((nearest == 0).float()[None], 2 * reach + 1, 1, reach)[0][row, column] > 0
    safe = ~outline & (1 / around > depth - 2 * (pixel + reach * slope))
    sampled = F.grid_sample(picture[None], place[None, None] * 2 - 1, padding_mode="border", align_corners=False)
    colour, opacity = sampled[0, :3, 0].T, sampled[0, 3, 0]
    weight = visible * cosine**SHARPNESS * torch.where(safe, 1.0, UNSAFE) * opacity.clamp(0.01, 1.0)
    colours.index_add_(0, facing, weight[:, None] * colour)
    total.index_add_(0, facing, weight)


def project(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Places in the picture [T, 2], from 0 (left, top) to 1, and distances along the direction of view [T]."""
    pose = camera.poses[0].float()
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    depth = -local[:, 2]
    right_down = torch.stack([local[:, 0], -local[:, 1]], dim=1) / depth[:, None]
    return right_down * camera.focal.float() + camera.centre.float(), depth


def nearness(camera: Cameras, corners: Tensor, triangles: Tensor, size: int) -> Tensor:
    """One over the depth of the nearest triangle, [size, size]; zero if there is no triangle."""
    place, depth = project(camera, corners)
    inverse = torch.where(depth > 0, 1 / depth, torch.nan)
    place = place * size + 0 * inverse[:, None]  # NaN leaves out what stands behind the camera
    buffer = torch.zeros(size * size)
    for triangle, pixel, weights in rasterise(place[triangles], size, size):
        # One over the depth is what is linear in the picture.
        value = (inverse[triangles[triangle]] * weights).sum(1)
        buffer.scatter_reduce_(0, pixel, value, "amax")
    return buffer.view(size, size)


def _fill(colours: Tensor, seen: Tensor, points: Tensor) -> None:
    """Gives the points that no view has seen the colours of the nearest ones in space that one has."""
    from scipy.spatial import cKDTree

    missing = ~seen
    if not missing.any():
        return
    known = points[seen]
    stride = max(1, len(known) // 100_000)
    known, known_colours = known[::stride], colours[seen][::stride]
    neighbours = list(range(1, min(6, len(known)) + 1))
    distance, index = cKDTree(known.numpy()).query(points[missing].numpy(), k=neighbours)
    weight = 1 / (torch.from_numpy(distance).float() + 1e-4)
    colours[missing] = (weight[..., None] * known_colours[index]).sum(1) / weight.sum(1, keepdim=True)


def texture_picture(texel: Tensor, colours: Tensor, size: int) -> np.ndarray:
    """The texture [size, size, 3] uint8: texels with their colours, the gaps between charts like their neighbours."""
    from scipy import ndimage

    picture = np.zeros((size * size, 3), dtype=np.uint8)
    covered = np.zeros(size * size, dtype=bool)
    picture[texel.numpy()] = (colours * 255 + 0.5).clamp(0, 255).byte().numpy()
    covered[texel.numpy()] = True
    rows, columns = ndimage.distance_transform_edt(
        ~covered.reshape(size, size), return_distances=False, return_indices=True
    )
    return picture.reshape(size, size, 3)[rows, columns]
