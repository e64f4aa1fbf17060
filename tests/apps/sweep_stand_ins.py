"""What takes the place of a run of minutes in the tests of sweeps: a runner that leaves its files, and a scene."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ldp_fast.apps.text_to_3d.scene import read_configuration
from ldp_fast.nerf import Cameras
from ldp_fast.runs.configuration import Configuration, write
from ldp_fast.runs.loop import Options
from ldp_fast.zoo import world
from ldp_fast.zoo.captions import scene_of


def leave_run(folder: pathlib.Path, configuration: Configuration, status: str = "finished", step: int = 7) -> None:
    """The files of a run that a sweep and an evaluation read."""
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, configuration)
    record = {"application": configuration.application, "status": status, "step": step, "versions": {"ldp-fast": "1"}}
    (folder / "run.json").write_text(json.dumps(record))
    Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(folder / "views.png")


class Runner:
    """`run_text_to_3d`'s place: leaves a run's files at once; fails or is interrupted where it is told to.

    Args:
        fail: configuration -> an error to raise, an exit code to return, or None.
    """

    def __init__(self, fail: Callable[[Any], Exception | int | None] = lambda configuration: None):
        self.fail = fail
        self.calls: list[str] = []

    def __call__(self, folder: pathlib.Path, configuration: Any, options: Options) -> int:
        self.calls.append(folder.name)
        outcome = self.fail(configuration)
        if isinstance(outcome, Exception):
            raise outcome
        leave_run(folder, configuration, "interrupted" if outcome else "finished")
        return outcome or 0


class TrueScene:
    """A scene that renders what the prompt of its run asks for, or what `shown` says."""

    def __init__(self, prompt: str):
        scene = scene_of(prompt)
        assert scene is not None
        self.orbit = {"elevation": 15.0, "radius": world.CAMERA_RADIUS, "fov": 40.0}
        self.scene = scene

    def render(self, cameras: Cameras) -> SimpleNamespace:
        x, y, z = (float(value) for value in cameras.poses[0, :3, 3])
        view = world.View(math.atan2(x, z), math.asin(y / math.sqrt(x * x + y * y + z * z)))
        image = world.render(self.scene, view)
        return SimpleNamespace(latents=torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents


class Loader:
    """`load_scene`'s place, which counts.

    Args:
        shown: configuration -> the caption of what its scene shows; by default its own prompt.
    """

    def __init__(self, shown: Callable[[Any], str] = lambda configuration: configuration.prompt):
        self.shown, self.calls = shown, 0

    def __call__(self, folder: pathlib.Path, device: str | None = None) -> TrueScene:
        self.calls += 1
        return TrueScene(self.shown(read_configuration(folder)))
