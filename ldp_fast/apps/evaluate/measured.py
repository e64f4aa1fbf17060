"""What was measured of one object, and how it is kept so that an interruption loses nothing but the run it meets."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import torch

from ...metrics import truth as measures
from ...runs import files, image_files
from ...zoo import solids, world
from ..text_to_3d.mesh import fitting, surface
from . import evidence, judge, reachable
from .found import Run
from .kept import kept_as, kept_picture, kept_record, remove_others, source_of


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured of a run.

    Attributes:
        object: its measures, by the names in docs/truth.md.
        pictures: [2, V, H, W, 3] in [0, 1], of the object and of the solid in its pose.
        reachable: measures of the solid itself through this pipeline; None where nobody has asked for them.
    """

    object: dict[str, Any]
    pictures: np.ndarray
    reachable: dict[str, Any] | None


def measure(
    scene: Any, asked: world.Scene, size: int | None, resolution: int, through: bool, before: Measured | None = None
) -> Measured:
    """Measures an object, and the solid itself too if it has to go `through` the pipeline.

    Args:
        scene: of the run.
        asked: the solid.
        size: latents (refined: pixels) per side of the views; None: as pictures for people have.
        resolution: points of the densities' lattice along an axis.
        through: whether the solid is measured.
        before: what was measured of this object, and is not measured again.

    Raises:
        UsageError: what cannot be measured.
    """
    if before is None:
        found = judge.measure(evidence.look_at(scene, size=size, resolution=resolution), asked)
        before = Measured(found.measures, found.pictures, None)
    if not through:
        return before
    solid = reachable.truth_through(scene, asked, size=size, resolution=resolution)
    return dataclasses.replace(before, reachable=judge.measure(solid, asked).measures)


@functools.cache
def measured_by() -> str:
    """A digest of the source that measures."""
    return source_of(judge, evidence, reachable, measures, solids, world, fitting, surface)


class Kept:
    """Where that of one of a folder's runs is kept.

    Args:
        folder: that is evaluated.
        name: of the run's folder.
        run: that is there.
        about: what the measures depend on beside the run and how they are taken.
    """

    def __init__(self, folder: pathlib.Path, name: str, run: Run, about: tuple[Any, ...]):
        how = (*about, measured_by())
        self.record, self.pictures = (kept_as(folder / name, run, "truth", how, end) for end in ("json", "png"))

    def read(self) -> Measured | None:
        """None where nothing is kept, or it cannot be read."""
        record, strips = kept_record(self.record, "object", "reachable"), kept_picture(self.pictures)
        if record is None or strips is None:
            return None
        side = strips.shape[1] // 2
        # [3, 2·H, V·W] as [2, V, H, W, 3].
        views = strips.unflatten(1, (2, side)).unflatten(3, (-1, side)).permute(1, 3, 2, 4, 0)
        return Measured(record["object"], views.numpy(), record["reachable"])

    def write(self, found: Measured) -> None:
        """Puts it in the place of what was kept of this run before."""
        views = torch.from_numpy(found.pictures)
        image_files.save_png(self.pictures, views.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2))
        files.write_json(self.record, {"object": found.object, "reachable": found.reachable})
        for path in (self.record, self.pictures):
            remove_others(path)
