"""What a metric sees of runs: views from random cameras, rendered once and kept as PNG."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...runs import image_files
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


def view_files(
    place: pathlib.Path,
    run: Run,
    views: Sequence[View],
    names: Sequence[str],
    *,
    kept: pathlib.Path,
    device: str | None = None,
    load: Callable[..., Any] | None = None,
) -> list[pathlib.Path]:
    """Views of a run as PNG files, one each; what is missing there, or damaged, is rendered.

    Args:
        place: the run's folder.
        run: that is there.
        views: azimuth and elevation in degrees.
        names: of the views, parts of the files' names.
        kept: the folder of the files.
        device: of rendering; None: the run's own.
        load: takes the place of what loads a run.
    """
    paths = [kept_as(place, run, name, view, "png", kept) for name, view in zip(names, views, strict=True)]
    missing = [i for i, path in enumerate(paths) if kept_picture(path) is None]
    if missing:
        wanted = [views[i] for i in missing]
        drawn = run.entry.pictures(place, run.configuration, wanted, device=device, load=load)
        for i, picture in zip(missing, drawn, strict=True):
            # Judged from the file, so that a view judged again is the very same.
            image_files.save_png(paths[i], picture)
            remove_others(paths[i])
    return paths
