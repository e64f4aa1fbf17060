"""What a run leaves: views, a film of one turn, and the mesh with its texture."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import torch
from torch import Tensor

from ...runs import files, image_files
from ...runs.experiment import Products
from ...runs.films import require_mp4, write_gif, write_mp4
from .mesh import opened
from .sculpture import Sculpture

# Eight around and one from above, degrees.
AROUND, ABOVE = 8, 80.0
SIZE = 256  # pixels per side, but for a run's own where that is more
FRAMES, FPS = 96, 25


def _elevation(sculpture: Sculpture) -> float:
    low, high = sculpture.configuration.cameras.elevation
    return min(max(20.0, low), high)


def _size(sculpture: Sculpture) -> int:
    return max(SIZE, sculpture.configuration.size)


def preview(sculpture: Sculpture) -> Tensor:
    """Four sides in a row, [3, H, 4·W] in [0, 1]."""
    height = _elevation(sculpture)
    found = sculpture.look([0.0, 90.0, 180.0, 270.0], [height] * 4, sculpture.configuration.size)
    return torch.cat(list(found), dim=2).cpu()


def of(sculpture: Sculpture, folder: pathlib.Path) -> Products:
    """What is made of a finished run, see `Experiment.products`."""
    made = {"pictures": write_views, "film": write_film, "mesh": write_mesh}
    return {name: functools.partial(write, sculpture, folder) for name, write in made.items()}


def write_views(sculpture: Sculpture, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `views.png`: around from the front on, and last from above."""
    azimuths = [360.0 * i / AROUND for i in range(AROUND)]
    heights = [_elevation(sculpture)] * AROUND
    found = sculpture.look([*azimuths, 0.0], [*heights, ABOVE], _size(sculpture)).cpu()
    image_files.save_png(folder / "views.png", image_files.contact_sheet(found))
    return [folder / "views.png"]


def write_film(sculpture: Sculpture, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes one turn around the object as `turntable.mp4`, and every second frame of it as `turntable.gif`.

    Raises:
        ModuleNotFoundError, UsageError: see `require_mp4`.
    """
    from tqdm import tqdm

    require_mp4()
    azimuths = [360.0 * i / FRAMES for i in range(FRAMES)]
    height, size = _elevation(sculpture), _size(sculpture)
    frames = [
        image_files.to_pixels(sculpture.look([azimuth], [height], size))[0]
        for azimuth in tqdm(azimuths, desc="turntable", unit="view")
    ]
    write_mp4(folder / "turntable.mp4", frames, FPS)
    write_gif(folder / "turntable.gif", frames[::2], FPS // 2)
    return [folder / "turntable.mp4", folder / "turntable.gif"]


def write_mesh(sculpture: Sculpture, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `mesh.glb` (glTF 2.0: positions, normals, the texture as it is written) and what it is, `mesh.json`."""
    import trimesh
    from PIL import Image
    from trimesh.visual.material import PBRMaterial

    mesh = sculpture.mesh
    with torch.no_grad():
        positions = mesh.positions()
        normals = mesh.normals(positions).cpu().numpy()
        pixels = image_files.to_pixels(torch.from_numpy(mesh.written_texture()).permute(2, 0, 1)[None])[0]
    points = positions.cpu().double().numpy()
    original, faces, uv = opened(mesh.faces, mesh.uv, pixels.shape[0])
    material = PBRMaterial(
        name="mesh", baseColorTexture=Image.fromarray(pixels), metallicFactor=0.0, roughnessFactor=1.0
    )
    visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    coloured = trimesh.Trimesh(points[original], faces, vertex_normals=normals[original], visual=visual, process=False)
    data: bytes = trimesh.exchange.gltf.export_glb(trimesh.Scene(coloured), include_normals=True)
    files.write_atomically(folder / "mesh.glb", data)
    closed = trimesh.Trimesh(points, mesh.faces, process=False)
    about = {
        "vertices": len(points),
        "faces": len(mesh.faces),
        "watertight": bool(closed.is_watertight),
        "volume": float(closed.volume),
        "area": float(closed.area),
        "extents": np.asarray(closed.extents).tolist(),
        "texture": pixels.shape[0],
    }
    files.write_json(folder / "mesh.json", about)
    return [folder / "mesh.glb", folder / "mesh.json"]
