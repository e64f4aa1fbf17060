"""The object as a textured triangle mesh: `mesh.glb`, `mesh.obj` (with its material and texture) and `mesh.json`."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from typing import Any

import numpy as np
import torch

from ....errors import UsageError
from ....runs import files, image_files
from . import fitting
from . import surface as surfaces
from . import texture as textures

FACES = 20_000
RESOLUTIONS = (16, 512)
SOLID = 0.8  # opacity below which an object is translucent
LARGEST_UNWRAPPED = 250_000  # faces: xatlas takes minutes for more
TEXTURES = (64, 8192)


@dataclasses.dataclass(frozen=True)
class MeshReport:
    """What was exported; `mesh.json` holds the same.

    Attributes:
        vertices: how many, before the texture's seams part them.
        faces: how many.
        watertight: whether the surface is closed: every edge has two faces.
        euler_number: vertices − edges + faces: 2 for a ball, 0 for a ring.
        volume: enclosed, cubic world units.
        area: square world units.
        extents: of the bounding box along x, y, z, world units.
        threshold: density of the surface, per world unit.
        automatic_threshold: whether it was found and not given.
        agreement: mean over views of the intersection over the union of the mesh's silhouettes and the outlines of
            what is rendered, 0 to 1.
        carved: whether the outlines limit the surface beside the density.
        solidity: typical opacity of the object, 0 to 1; outlines are where it is half of that.
        resolution: points of the density's lattice along an axis.
        components: separate pieces kept.
        dropped_components: floaters left out.
        dropped_volume_share: their volume over the volume of all pieces.
        colours: "texture", or "vertices" without xatlas.
        texture: sides of the texture in texels; 0 without one.
        seen_share: share of the texels (or vertices) that a decoded view saw; the others are like their neighbours.
        views: decoded views the colours come from.
        step: of the scene.
        notes: what could not be done, a sentence each.
        seconds: time taken.
    """

    vertices: int
    faces: int
    watertight: bool
    euler_number: int
    volume: float
    area: float
    extents: tuple[float, float, float]
    threshold: float
    automatic_threshold: bool
    agreement: float
    carved: bool
    solidity: float
    resolution: int
    components: int
    dropped_components: int
    dropped_volume_share: float
    colours: str
    texture: int
    seen_share: float
    views: int
    step: int
    notes: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        """One line for the user."""
        parts = [f"{self.vertices} vertices, {self.faces} faces", "watertight" if self.watertight else "NOT watertight"]
        parts.append(f"density {self.threshold:.3g}{' (automatic)' if self.automatic_threshold else ''}")
        parts.append(f"silhouettes agree to {100 * self.agreement:.0f} %{' (carved by them)' if self.carved else ''}")
        if self.dropped_components:
            floaters = "floater" if self.dropped_components == 1 else "floaters"
            share = 100 * self.dropped_volume_share
            parts.append(f"{self.dropped_components} {floaters} dropped ({share:.2g} % of the volume)")
        parts.append(f"texture {self.texture}²" if self.texture else "vertex colours")
        return "; ".join([*parts, *self.notes])


def export_mesh(
    scene: Any,
    folder: pathlib.Path,
    *,
    resolution: int = 128,
    threshold: float | None = None,
    texture: int = 1024,
    faces: int = FACES,
) -> MeshReport:
    """Writes the scene's object as a mesh. Nothing is written, or replaced, before all of it is there.

    The surface is where the density, smoothed a little, has `threshold` (marching cubes). Floaters are dropped, hidden
    cavities filled, ripples smoothed, faces thinned out; colours come from decoded views. Its silhouettes are compared
    with the outlines of what is rendered.

    Args:
        scene: a Scene: field, occupancy, orbit, render, decode, step.
        folder: where to.
        resolution: points of the density's lattice along an axis.
        threshold: density of the surface, per world unit; None: the one whose silhouettes agree best with the views'
            outlines (`shape_of`).
        texture: texels along a side.
        faces: how many at most; 0: all that marching cubes gives.

    Returns:
        MeshReport.

    Raises:
        UsageError: an argument out of range, an empty field, densities that are not finite.
        ModuleNotFoundError: scikit-image, trimesh or scipy is not installed.
    """
    import trimesh

    started = time.perf_counter()
    _check("--resolution", resolution, *RESOLUTIONS)
    _check("--texture", texture, *TEXTURES)
    if faces < 0 or 0 < faces < 100:
        raise UsageError(f"--faces: expected 0 (all) or at least 100; got {faces}")
    if threshold is not None and not 0 < threshold < float("inf"):
        raise UsageError(f"--threshold: expected auto or a positive density; got {threshold:g}")
    shape = fitting.shape_of(scene, resolution, threshold)
    found, mesh, notes = surfaces.clean_mesh(shape.surface, shape.smoothing, faces)
    agreement = shape.agreement(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    coloured, seen, texture, missing = _coloured(scene, mesh, texture)
    report = MeshReport(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=bool(mesh.is_watertight),
        euler_number=int(mesh.euler_number),
        volume=float(mesh.volume),
        area=float(mesh.area),
        extents=(float(mesh.extents[0]), float(mesh.extents[1]), float(mesh.extents[2])),
        threshold=found.level,
        automatic_threshold=threshold is None,
        agreement=agreement,
        carved=shape.room is not None,
        solidity=shape.outlines.solidity,
        resolution=resolution,
        components=found.kept,
        dropped_components=found.dropped,
        dropped_volume_share=found.dropped_share,
        colours="texture" if texture else "vertices",
        texture=texture,
        seen_share=seen,
        views=sum(count for _, count in textures.RINGS),
        step=int(scene.step),
        notes=(*_judgement(agreement, shape.outlines.solidity), *notes, *missing),
        seconds=0.0,
    )
    data = _encoded(trimesh, coloured)
    for name, content in data.items():
        files.write_atomically(folder / name, content)
    report = dataclasses.replace(report, seconds=round(time.perf_counter() - started, 2))
    files.write_json(folder / "mesh.json", dataclasses.asdict(report))
    return report


def _judgement(agreement: float, solidity: float) -> list[str]:
    """What to know of a mesh that is not what the pictures show."""
    if agreement >= fitting.AGREEING:
        return []
    least = f"under {100 * fitting.AGREEING:.0f} % the mesh is not what the pictures show"
    if solidity < SOLID:
        return [f"{least}, for the object is translucent (opacity {solidity:.2f}): train longer"]
    return [f"{least}: try --threshold, a higher --resolution, or train longer"]


def _check(argument: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{argument}: expected {low} to {high}; got {value}")


def _coloured(scene: Any, mesh: Any, size: int) -> tuple[Any, float, int, list[str]]:
    """The mesh with colours, the share of them that was seen, the texture's size (0: none), and what is missing."""
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial

    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces).astype(np.int64)
    normals = np.asarray(mesh.vertex_normals)
    try:
        cut = textures.unwrap(vertices, faces, size) if len(faces) <= LARGEST_UNWRAPPED else None
        missing = f"no texture: {len(faces)} faces are too many to unwrap, choose fewer --faces"
    except ModuleNotFoundError:
        cut, missing = None, "no texture, for xatlas is not installed: pip install xatlas"
    if cut is None:
        points, directions = (torch.from_numpy(x.astype(np.float32)) for x in (vertices, normals))
        colours, seen = textures.bake(scene, vertices, faces, points, directions)
        pixels = image_files.to_pixels(colours.T[None, :, :, None])[0, :, 0]
        coloured = trimesh.Trimesh(vertices, faces, vertex_normals=normals, vertex_colors=pixels, process=False)
        return coloured, seen, 0, [missing]
    texel, triangle, weights = textures.texels(cut, size)
    corners = torch.from_numpy(cut.original[cut.faces])[triangle]
    points, directions = (
        (torch.from_numpy(x.astype(np.float32))[corners] * weights[..., None]).sum(1) for x in (vertices, normals)
    )
    directions = torch.nn.functional.normalize(directions, dim=1)
    colours, seen = textures.bake(scene, vertices, faces, points, directions)
    picture = Image.fromarray(textures.texture_picture(texel, colours, size))
    # The light is in the colours already; a viewer should add no gloss of its own.
    material = PBRMaterial(name="mesh", baseColorTexture=picture, metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(uv=cut.uv, material=material)
    coloured = trimesh.Trimesh(
        vertices[cut.original], cut.faces, vertex_normals=normals[cut.original], visual=visual, process=False
    )
    return coloured, seen, size, []


def _encoded(trimesh: Any, mesh: Any) -> dict[str, bytes]:
    """The files' contents; what a file refers to comes before it."""
    glb: bytes = trimesh.exchange.gltf.export_glb(trimesh.Scene(mesh), include_normals=True)
    simple = mesh.copy()
    if mesh.visual.kind == "texture":
        picture = mesh.visual.material.baseColorTexture
        material = trimesh.visual.material.SimpleMaterial(
            image=picture, ambient=[255] * 4, diffuse=[255] * 4, specular=[0, 0, 0, 255], glossiness=0.0, name="mesh"
        )
        simple.visual = trimesh.visual.TextureVisuals(uv=mesh.visual.uv, material=material)
    text, beside = trimesh.exchange.obj.export_obj(
        simple, include_normals=True, return_texture=True, mtl_name="mesh.mtl", header=None
    )
    pictures = {name: content for name, content in beside.items() if not name.endswith(".mtl")}
    materials = {name: content for name, content in beside.items() if name.endswith(".mtl")}
    return {**pictures, **materials, "mesh.obj": text.encode(), "mesh.glb": glb}
