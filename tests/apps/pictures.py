"""Folders of small pictures of the embedded model's world."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ldp_fast.zoo import world

SUFFIXES = ("png", "jpg", "webp")
CAPTIONS = tuple(scene.caption() for scene in world.all_scenes()[:: len(world.all_scenes()) // 12])


@functools.cache
def rendered(caption: str) -> np.ndarray:
    """The solid that a caption asks for, `[48, 48, 3]` uint8."""
    scene = next(scene for scene in world.all_scenes() if scene.caption() == caption)
    return np.asarray(Image.fromarray(world.render(scene, world.View(0.6, 0.4))).resize((48, 48)))


def make_folder(folder: pathlib.Path, captions: Sequence[str] = CAPTIONS[:6], *, said: bool = True) -> pathlib.Path:
    """A picture of each caption, of three formats, and captions.json where they are to be `said`."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:02d}.{SUFFIXES[i % 3]}" for i in range(len(captions))]
    for name, caption in zip(names, captions, strict=True):
        Image.fromarray(rendered(caption)).save(folder / name)
    if said:
        (folder / "captions.json").write_text(json.dumps(dict(zip(names, captions, strict=True))))
    return folder
