"""What a run leaves to look at: grids of views, depth, opacity and normals, and a turntable as a film."""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ....errors import UsageError
from ....runs import image_files
from ....runs.films import require_mp4, write_gif, write_mp4
from ..colours import Colours
from .frames import render_frames
from .trajectories import trajectory

if TYPE_CHECKING:
    from ..scene import Scene

GRIDS = {"views.png": "decoded", "depth.png": "depth", "opacity.png": "opacity", "normals.png": "normals"}
# Eight around and one from above.
VIEWS = 9
FRAMES, FPS = 128, 25
# Pixels per side: a GIF compresses badly.
GIF_LARGEST = 512


def write_grids(scene: Scene, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes `views.png`, `depth.png`, `opacity.png`, `normals.png`: around from the front on, and last from above."""
    cameras = trajectory("views", VIEWS, **scene.orbit)
    columns = torch.stack(list(render_frames(scene, cameras, tuple(GRIDS.values()))))
    written = []
    for name, pictures in zip(GRIDS, columns.chunk(len(GRIDS), dim=3), strict=True):
        image_files.save_png(folder / name, image_files.contact_sheet(pictures))
        written.append(folder / name)
    return written


def preview(scene: Scene, views: int = 4) -> Tensor:
    """A row of decoded views from all sides, [3, H, views·W] in [0, 1]: what `--preview` and the log show."""
    return torch.cat(list(render_frames(scene, trajectory("orbit", views, **scene.orbit))), dim=2)


def write_turntable(
    scene: Scene, folder: pathlib.Path, *, frames: int = FRAMES, fps: int = FPS, progress: bool = False
) -> list[pathlib.Path]:
    """Writes one turn around the object, decoded, as `turntable.mp4` and (every second frame) `turntable.gif`.

    Args:
        scene: what to show.
        folder: where to.
        frames: of the MP4.
        fps: of the MP4, frames per second.
        progress: whether to show a bar on stderr.

    Returns:
        What was written. Without PyAV the MP4 is not among it, and a line on stderr says so.
    """
    from PIL import Image
    from tqdm import tqdm

    cameras = trajectory("orbit", frames, **scene.orbit)
    # On a CPU the decoder takes nearly all of a film's time, and four times as long for twice the latents per side.
    fast = scene.refined or isinstance(scene.prior, Colours) or scene.prior.device.type != "cpu"
    pictures = render_frames(scene, cameras, size=scene.display_size if fast else scene.size)
    shown = tqdm(pictures, total=frames, desc="turntable", unit="view", disable=not progress)
    pixels = [image_files.to_pixels(picture[None])[0] for picture in shown]
    written = [folder / "turntable.gif"]
    every = -(-pixels[0].shape[0] // GIF_LARGEST)
    write_gif(written[0], [np.asarray(Image.fromarray(x).reduce(every)) for x in pixels[::2]], max(1, fps // 2))
    try:
        require_mp4()
    except (ModuleNotFoundError, UsageError) as error:
        reason = (
            f"{error.name} is not installed: pip install 'ldp-fast[apps]'" if isinstance(error, ImportError) else error
        )
        print(f"{folder / 'turntable.mp4'} is left out: {reason}", file=sys.stderr)
        return written
    write_mp4(folder / "turntable.mp4", pixels, fps)
    return [folder / "turntable.mp4", *written]
