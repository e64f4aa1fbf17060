"""What runs of adapt leave, without the minutes: their records, and samples that are renders."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from PIL import Image

from ldp_fast.apps.adapt.configuration import Adaptation, class_of
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.runs.configuration import write
from ldp_fast.zoo import world
from ldp_fast.zoo.captions import scene_of


def adaptation(prompt: str, guidance: str = "ldp", seed: int = 0, samples: int = 200) -> Adaptation:
    said = {"prompt": prompt, "guidance": guidance, "seed": seed, "samples": samples, "device": "cpu"}
    plain = resolve({}, said)
    return class_of(plain).from_plain(plain)


def renders(caption: str, count: int, seed: int = 0, size: int = 32) -> list[np.ndarray]:
    """Pictures of a caption from any side, `[size, size, 3]` uint8."""
    scene, rng = scene_of(caption), np.random.default_rng(seed)
    assert scene is not None
    return [world.render(scene, world.sample_view(rng), size) for _ in range(count)]


def leave_adapted(
    folder: pathlib.Path, configuration: Adaptation, shown: str = "", count: int = 6, status: str = "finished"
) -> None:
    """The files of a run that a sweep and an evaluation read.

    Args:
        folder: of the run.
        configuration: of the run.
        shown: the caption of what its samples show; by default its prompt.
        count: samples; 0 leaves none.
        status: of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, configuration)
    record = {"application": "adapt", "status": status, "step": 7, "versions": {"ldp-fast": "1"}}
    (folder / "run.json").write_text(json.dumps(record))
    Image.fromarray(np.full((16, 32, 3), 90, np.uint8)).save(folder / "before_after.png")
    for index, picture in enumerate(renders(shown or configuration.prompt, count, configuration.seed)):
        (folder / "samples").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / "samples" / f"{index:06d}.png")
