"""Pictures of what a prompt of the embedded model's world asks for, as the embedded generator would show it."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
import torch

from ...generators import sampling
from ...guidance.loading import embedded_models
from ...runs import image_files
from ...runs.names import name_of
from ...zoo import generator, world
from ...zoo.captions import scene_of
from ..evaluate.kept import source_of

COUNT = 500
SEED = 2**31  # of no run: the views are those of other samples than what is measured


def seen_from(source: Any) -> str:
    """Where the cameras are."""
    return "as the embedded generator sees its cubes" if source in embedded_models() else "from any side"


def views(source: Any, count: int) -> list[world.View]:
    """Cameras, as those of the pictures of a generator that was adapted; of one that is not embedded, from any side."""
    if source in embedded_models():
        return generator.attributes(sampling.latents(SEED, 0, count, generator.SETTINGS.z_dim)).views()
    rng = np.random.default_rng(SEED)
    return [world.sample_view(rng) for _ in range(count)]


@functools.cache
def _made_by() -> str:
    return source_of(world, generator)[:8]


def rendered(folder: pathlib.Path, prompt: str, source: Any, like: pathlib.Path) -> list[pathlib.Path]:
    """`COUNT` renders of a prompt, those that are missing made.

    Args:
        folder: they get a folder in it.
        prompt: that is known to the embedded model's world.
        source: the generator that was adapted.
        like: a picture of their size.
    """
    from PIL import Image

    scene = scene_of(prompt)
    assert scene is not None
    with Image.open(like) as picture:
        size = picture.size[0]
    kind = "generator" if source in embedded_models() else "any"
    place = folder / f"{name_of(prompt)}-{size}-{kind}-{_made_by()}"
    paths = [place / sampling.file_name(index) for index in range(COUNT)]
    for path, view in zip(paths, views(source, COUNT), strict=True):
        if not path.exists():
            image = torch.from_numpy(world.render(scene, view, size)).permute(2, 0, 1)
            image_files.save_png(path, image.float() / 255)
    return paths
