"""Pictures of what a prompt of the embedded model's world asks for, as the embedded generator would show it."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np
import torch

from ...generators import sampling
from ...runs import image_files
from ...runs.names import name_of
from ...zoo import generator, world
from ...zoo.captions import scene_of
from ..adapted import root_of
from ..evaluate.kept import source_of

COUNT = 500
SEED = 2**31  # of no run: the views are those of other samples than what is measured
# Where the cameras are: a part of folders' names, and as text.
EMBEDDED, ANY = "generator", "any"
SEEN = {EMBEDDED: "as the embedded generator sees its cubes", ANY: "from any side"}


def kind_of(source: Any) -> str:
    """How pictures of a generator are seen: one of `SEEN`.

    Args:
        source: the generator that was adapted, by its name. One that was adapted itself shows what its own source did.
    """
    return EMBEDDED if isinstance(source, str) and root_of(source) else ANY


def views(kind: str, count: int) -> list[world.View]:
    """Cameras of one of `SEEN`."""
    if kind == EMBEDDED:
        return generator.attributes(sampling.latents(SEED, 0, count, generator.SETTINGS.z_dim)).views()
    rng = np.random.default_rng(SEED)
    return [world.sample_view(rng) for _ in range(count)]


@functools.cache
def _made_by() -> str:
    return source_of(world, generator)[:8]


def rendered(folder: pathlib.Path, prompt: str, kind: str, size: int) -> list[pathlib.Path]:
    """`COUNT` renders of a prompt, those that are missing made.

    Args:
        folder: they get a folder in it.
        prompt: that is known to the embedded model's world.
        kind: of their cameras, one of `SEEN`.
        size: pixels per side.
    """
    scene = scene_of(prompt)
    assert scene is not None
    place = folder / f"{name_of(prompt)}-{size}-{kind}-{_made_by()}"
    paths = [place / sampling.file_name(index) for index in range(COUNT)]
    for path, view in zip(paths, views(kind, COUNT), strict=True):
        if not path.exists():
            image = torch.from_numpy(world.render(scene, view, size)).permute(2, 0, 1)
            image_files.save_png(path, image.float() / 255)
    return paths
