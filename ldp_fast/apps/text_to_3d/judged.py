"""What a metric sees of a run of text-to-3D: views from cameras that it chooses."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...nerf import Cameras
from ..variants import guided_by_clip
from .scene import load_scene
from .sections import PriorGuided, TextTo3D


def described(configuration: TextTo3D) -> dict[str, Any]:
    """A run's plain settings; with the prior's terms, by which tables tell runs apart, all absent where CLIP guides."""
    if isinstance(configuration, PriorGuided):
        return configuration.plain()
    return {**configuration.plain(), **guided_by_clip()}


def pictures(
    folder: pathlib.Path,
    configuration: TextTo3D,
    views: Sequence[tuple[float, float]],
    device: str | None = None,
    load: Callable[..., Any] | None = None,
) -> list[Tensor]:
    """Decoded views [3, H, W] in [0, 1], from azimuth and elevation in degrees.

    Args:
        folder: of the run.
        configuration: of the run.
        views: one a picture.
        device: of rendering; None: the run's own.
        load: `load_scene`, or what takes its place.
    """
    scene = (load or load_scene)(folder, device=device)
    orbit = scene.orbit
    cameras = [Cameras.orbit(*view, orbit["radius"], orbit["fov"]) for view in views]
    return [scene.decode(scene.render(camera).latents)[0] for camera in cameras]
