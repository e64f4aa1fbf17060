"""`ldp-fast export`: a run's object as a mesh."""

from __future__ import annotations

import argparse
import pathlib

from ....errors import UsageError
from ....runs.folder import RunFolder
from ...options import check_device_flag
from ...targets import check_writable
from .mesh import FACES, export_mesh

EXAMPLES = """\
examples:
  ldp-fast export out/a-red-torus
  ldp-fast export out/a-red-torus --resolution 256 --texture 2048 --out out/fine
  ldp-fast export out/a-red-torus --checkpoint 800 --threshold 10
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="folder of a text-to-3d run")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="folder to write to (default: the run's)")
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="step of the checkpoint to export (default: the newest)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: the run's)")
    shape = parser.add_argument_group("mesh")
    shape.add_argument(
        "--resolution", type=int, default=128, metavar="N", help="points along an axis where the density is sampled"
    )
    shape.add_argument(
        "--threshold",
        default="auto",
        metavar="DENSITY",
        help="density at the surface; auto: the one whose silhouettes agree best with the pictures",
    )
    shape.add_argument("--faces", type=int, default=FACES, metavar="N", help="triangles at most; 0 keeps all")
    shape.add_argument("--texture", type=int, default=1024, metavar="N", help="pixels along a side of the texture")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code 0."""
    from ..run import APPLICATION
    from ..scene import load_scene

    check_device_flag(args.device)
    threshold = read_threshold(args.threshold)
    out = args.out or args.folder
    if out.suffix.lower() in (".glb", ".gltf", ".obj", ".ply", ".stl") and not out.is_dir():
        raise UsageError(f"--out: expected a folder, which gets mesh.glb and mesh.obj; got {str(out)!r}")
    check_writable(out)
    scene = load_scene(args.folder, args.checkpoint, args.device)
    before = _times(out)
    report = export_mesh(
        scene,
        out,
        resolution=args.resolution,
        threshold=threshold,
        texture=args.texture,
        faces=args.faces,
    )
    RunFolder(args.folder, APPLICATION).add_later(
        out / name for name, time in _times(out).items() if before.get(name) != time
    )
    print(f"{out / 'mesh.glb'}, {out / 'mesh.obj'}: {report} ({report.seconds:.1f} s)")
    return 0


def _times(folder: pathlib.Path) -> dict[str, int]:
    """When each of a mesh's files was written: a texture from before is not part of this mesh."""
    found = [folder / f"mesh.{ending}" for ending in ("glb", "obj", "mtl", "png", "json")]
    return {path.name: path.stat().st_mtime_ns for path in found if path.exists()}


def read_threshold(text: str) -> float | None:
    """`auto` as None, else the number.

    Raises:
        UsageError: neither.
    """
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold: expected auto or a positive density; got {text!r}") from None
