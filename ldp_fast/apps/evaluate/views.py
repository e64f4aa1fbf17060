"""What a metric sees of runs: views from random cameras, rendered once and kept as PNG."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...runs import image_files
from ..progress import bar
from .found import Run
from .kept import kept_as, kept_picture, remove_others

View = tuple[float, float]


def draw(configuration: dict[str, Any], seed: int, purpose: str) -> int:
    """A seed of 63 bits, the same for every method and every choice of losses.

    Args:
        configuration: with its `prompt` and `seed`.
        seed: of the evaluation.
        purpose: what is drawn.
    """
    words = json.dumps([purpose, configuration["prompt"], configuration["seed"], seed])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1


def random_view(run: Run, seed: int, elevation: View | None) -> View:
    """Azimuth (any) and elevation, in degrees.

    Args:
        run: whose prompt and seed the view depends on.
        seed: of the evaluation.
        elevation: range of the camera; None: what the run was trained from.
    """
    low, high = elevation or run.entry.elevations(run.configuration)
    rng = np.random.default_rng(draw(run.plain, seed, "view"))
    return round(float(rng.uniform(0, 360)), 3), round(float(rng.uniform(low, high)), 3)


@dataclasses.dataclass(frozen=True)
class Views:
    """Views of a run, and where they are kept as PNG.

    Attributes:
        place: the run's folder.
        run: that is there.
        cameras: azimuth and elevation in degrees.
        names: one a camera, parts of the files' names.
        kept: the folder of the files.
    """

    place: pathlib.Path
    run: Run
    cameras: Sequence[View]
    names: Sequence[str]
    kept: pathlib.Path

    def files(self) -> list[pathlib.Path]:
        """The PNG files, one a camera."""
        pairs = zip(self.names, self.cameras, strict=True)
        return [kept_as(self.place, self.run, name, view, "png", self.kept) for name, view in pairs]


def render_missing(
    views: Sequence[Views],
    *,
    device: str | None = None,
    load: Callable[..., Any] | None = None,
    progress: bool = True,
) -> None:
    """Renders what is missing of the views of some runs, or is damaged.

    Args:
        views: one a run.
        device: of rendering; None: the runs' own.
        load: takes the place of what loads a run.
        progress: whether to show a bar.
    """
    missing = [[i for i, path in enumerate(each.files()) if kept_picture(path) is None] for each in views]
    with bar(sum(map(len, missing)), "views", "view", progress) as advance:
        for each, places in zip(views, missing, strict=True):
            if not places:
                continue
            wanted, paths = [each.cameras[i] for i in places], each.files()
            drawn = each.run.entry.pictures(each.place, each.run.configuration, wanted, device=device, load=load)
            for i, picture in zip(places, drawn, strict=True):
                # Judged from the file, so that a view judged again is the very same.
                image_files.save_png(paths[i], picture)
                remove_others(paths[i])
            advance(len(places))
