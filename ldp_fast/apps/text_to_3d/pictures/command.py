"""`ldp-fast render`: a film or pictures of a run's object, along a trajectory."""

from __future__ import annotations

import argparse
import difflib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ....errors import UsageError
from ....runs import image_files
from ....runs.films import require_mp4, write_gif, write_mp4
from ....runs.flags import number
from ....runs.folder import RunFolder
from ....runs.settings import hyphens
from ...options import check_device_flag
from ...targets import check_writable
from ..run import APPLICATION
from ..scene import load_scene
from .frames import CHANNELS, render_frames
from .products import FPS, FRAMES, VIEWS
from .trajectories import TRAJECTORIES, trajectory

ENDINGS = (".mp4", ".gif", ".png")
EXAMPLES = """\
examples:
  ldp-fast render out/a-red-cube                                             DIR/orbit-decoded.mp4
  ldp-fast render out/a-red-cube --trajectory spiral --channels decoded depth normals --out spiral.mp4
  ldp-fast render out/a-red-cube --trajectory views --out views.png          nine views in a grid
  ldp-fast render out/a-red-cube --frames 60 --out frames                    a folder of PNGs
  ldp-fast render out/a-red-cube --checkpoint 800 --out early.gif
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="folder of a text-to-3d run")
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="FILE",
        help="a .mp4, .gif or .png (several frames become a grid), or a new folder for one PNG a frame (default: "
        "DIR/TRAJECTORY-CHANNELS.mp4)",
    )
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="step of the checkpoint to show (default: the newest)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: the run's)")
    path = parser.add_argument_group("camera", "what is not given is as in the run's own film")
    path.add_argument(
        "--trajectory",
        default="orbit",
        metavar="NAME",
        help=f"path of the camera: {', '.join(TRAJECTORIES)} (default: orbit)",
    )
    path.add_argument("--frames", type=int, metavar="N", help=f"how many frames (default: {FRAMES}; for views {VIEWS})")
    path.add_argument("--elevation", type=number, metavar="DEGREES", help="height of the camera above the horizon")
    path.add_argument(
        "--radius", type=number, metavar="R", help="distance of the camera from the middle, in world units"
    )
    path.add_argument("--fov", type=number, metavar="DEGREES", help="field of view")
    look = parser.add_argument_group("picture")
    look.add_argument(
        "--channels",
        nargs="+",
        default=["decoded"],
        metavar="NAME",
        help=f"what to show: {', '.join(CHANNELS)}; several are shown side by side (default: decoded)",
    )
    look.add_argument(
        "--size",
        type=int,
        metavar="S",
        help="latents per side of a view (default: twice the training's; at least 64 for depth, normals, opacity)",
    )
    look.add_argument(
        "--pixels",
        type=int,
        metavar="P",
        help="height of the pictures in pixels (default: the decoder's, enlarged to 256)",
    )
    look.add_argument(
        "--shade", type=number, default=0.5, metavar="GREY", help="grey of the background, from 0 to 1 (default: 0.5)"
    )
    look.add_argument("--fps", type=int, default=FPS, metavar="F", help=f"frames per second (default: {FPS})")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code, 0."""
    from tqdm import tqdm

    along, channels = hyphens(args.trajectory), [hyphens(channel) for channel in args.channels]
    check_names("--trajectory", [along], TRAJECTORIES)
    check_names("--channels", channels, CHANNELS, "some")
    check_device_flag(args.device)
    out = args.out or args.folder / f"{along}-{'-'.join(channels)}.mp4"
    check_target(out)
    if not 1 <= args.fps <= 240:
        raise UsageError(f"--fps: expected 1 to 240, got {args.fps}")
    scene = load_scene(args.folder, args.checkpoint, args.device)
    place = {name: getattr(args, name) for name in ("elevation", "radius", "fov")}
    place = {name: scene.orbit[name] if value is None else value for name, value in place.items()}
    frames = args.frames if args.frames is not None else VIEWS if along == "views" else FRAMES
    cameras = trajectory(along, frames, **place)
    pictures = render_frames(scene, cameras, channels, size=args.size, pixels=args.pixels, shade=args.shade)
    written = write(out, tqdm(pictures, total=frames, desc="render", unit="frame"), args.fps)
    RunFolder(args.folder, APPLICATION).add_later(written)
    print(f"{out} ({frames} frame{'s' * (frames > 1)}, step {scene.step})")
    return 0


def check_target(out: pathlib.Path) -> None:
    """Says before anything is rendered that it could not be written.

    Raises:
        ModuleNotFoundError: PyAV is needed and not installed.
        UsageError: an ending that is not known, a folder that is not empty, or a place that cannot be written to.
    """
    ending = out.suffix.lower()
    if ending == ".mp4":
        require_mp4()
    elif ending and ending not in ENDINGS:
        raise UsageError(f"--out: expected a name ending in {', '.join(ENDINGS)}, or a folder; got {out.name!r}")
    if ending and out.is_dir():
        raise UsageError(f"--out: expected a file, and {out} is a folder")
    if not ending and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out: expected a new or empty folder for the frames, and {out} is neither")
    check_writable(out.parent if ending else out)


def check_names(flag: str, given: Sequence[str], known: Sequence[str], how_many: str = "one") -> None:
    """Checks the words of a flag.

    Raises:
        UsageError: one is not known; names the nearest.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UsageError(f"{flag}: expected {how_many} of {', '.join(known)}; got {name!r}{hint}")


def write(out: pathlib.Path, pictures: Iterator[Tensor], fps: int) -> list[pathlib.Path]:
    """Writes pictures [3, H, W] in [0, 1] as what the ending of a name asks for; frames of a film are not collected.

    Returns:
        What was written.
    """
    ending = out.suffix.lower()
    if ending == ".png":
        stacked = torch.stack(list(pictures))
        image_files.save_png(out, image_files.contact_sheet(stacked))
        return [out]
    if not ending:
        written = []
        for index, picture in enumerate(pictures):
            written.append(out / f"{index:04d}.png")
            image_files.save_png(written[-1], picture)
        return written
    film: Any = (image_files.to_pixels(picture[None])[0] for picture in pictures)
    (write_mp4 if ending == ".mp4" else write_gif)(out, film, fps)
    return [out]
