"""`ldp-fast view`: a web page with a run's object, rendered live from the visitor's camera."""

from __future__ import annotations

import argparse
import pathlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ....runs import checkpoints
from .server import Viewer, check_address

if TYPE_CHECKING:
    from ..scene import Scene

EXAMPLES = """\
examples:
  ldp-fast view out/a-red-torus
  ldp-fast view out/a-red-torus --port 8090 --checkpoint 800
  ldp-fast view out/a-red-torus --host 0.0.0.0                            for the whole network, without a password
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="folder of a text-to-3d run")
    parser.add_argument("--port", type=int, default=8080, help="port of the page; 0: any free one (default: 8080)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve on; 0.0.0.0: every address of this machine"
    )
    parser.add_argument(
        "--checkpoint", type=int, metavar="STEP", help="step of the checkpoint to begin with (default: the newest)"
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: the run's)")


def provider(folder: pathlib.Path, checkpoint: int | None, device: str | None) -> Callable[[int | None], Scene]:
    """What a `Viewer` takes its scenes from.

    Args:
        folder: of a text-to-3d run.
        checkpoint: which to begin with; None: the newest.
        device: where to; None: the run's.

    Returns:
        Step, or None at the beginning -> scene. It raises UsageError where there is no such checkpoint or it is
        damaged.
    """
    from ..scene import Scene, load_scene, load_scene_state

    first: Scene | None = None

    def provide(step: int | None) -> Scene:
        nonlocal first
        if first is None or step is None:
            first = load_scene(folder, checkpoint if step is None else step, device)
            return first
        # The model that decodes is the same for all; a large one does not fit twice, nor load in a moment.
        scene = Scene(first.configuration, first.prior)
        load_scene_state(checkpoints.path_of(folder, step), scene)
        return scene.eval()

    return provide


def run(args: argparse.Namespace) -> int:
    """The command; it ends with Ctrl-C. Returns the exit code, 0."""
    from ...options import check_device_flag

    check_device_flag(args.device)
    # A wrong port is said before a large model is loaded.
    check_address(args.host, args.port)
    folder = args.folder
    viewer = Viewer(
        provider(folder, args.checkpoint, args.device),
        args.port,
        args.host,
        steps=lambda: checkpoints.steps(folder),
        title=folder.resolve().name,
    )
    print(f"{folder} is shown at {viewer.url} (Ctrl-C ends)", flush=True)
    try:
        # Not one endless wait: a Ctrl-C that comes in the moment before it begins would be noticed when it ends.
        ended = threading.Event()
        while not ended.wait(0.5):
            pass
    except KeyboardInterrupt:
        print("ended")
    finally:
        viewer.close()
    return 0
