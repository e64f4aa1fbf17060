"""A run of CLIP-Mesh: what it is to the loop, and to metrics."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ...decoder.free import free_bytes
from ...errors import UsageError
from ...runs import checkpoints
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ...runs.experiment import Application
from . import rasterisers
from .configuration import NAME, ClipMesh
from .experiment import ClipMeshExperiment, Sculpture
from .guide import load_guide

PRODUCTS = ("film", "mesh")
TO_LOWER = "--views, --size or --refinement"
LABELS = {"render": "rasteriser, forward", "clip": "CLIP, forward", "backward": "backward", "optimiser": "optimiser"}


def begin(configuration: ClipMesh, *, device: str | None = None, rank: int = 0, world: int = 1) -> ClipMeshExperiment:
    """A run's experiment at step 0.

    Raises:
        UsageError: a CLIP, a prompt or a device that cannot be used, or a rasteriser that is not installed.
    """
    rasterisers.require(configuration.rasteriser)
    return ClipMeshExperiment(configuration, load_guide(configuration, device))


def expect(experiment: ClipMeshExperiment) -> Expectation:
    """What the steps that are left take, from a step or two of a copy; nothing of the experiment changes."""
    kept: dict[int, int] = {}

    def rehearse() -> float:
        other = ClipMeshExperiment(experiment.configuration, experiment.guide)
        other.sculpture.load_state(experiment.sculpture.state())

        def step() -> None:
            other.step = experiment.step
            kept.clear()
            with _counting(kept):
                other.advance()

        return (experiment.total - experiment.step) * seconds_of(step, experiment.device)

    seconds = rehearsed(rehearse, experiment.device)
    memory = {"pictures and CLIP": sum(kept.values())}
    return Expectation(seconds, memory, free_bytes(experiment.device), str(experiment.device))


@contextlib.contextmanager
def _counting(kept: dict[int, int]) -> Iterator[None]:
    """Notes the bytes that autograd keeps, by where they lie."""

    def note(x: Tensor) -> Tensor:
        if x.layout is torch.strided:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        yield


def load_sculpture(folder: pathlib.Path, configuration: ClipMesh, device: str | None = None) -> Sculpture:
    """The mesh of a run's newest checkpoint.

    Args:
        folder: of the run.
        configuration: of the run.
        device: of rendering; None: the run's own.

    Raises:
        UsageError: there is no checkpoint, or it is damaged or of another configuration.
    """
    steps = checkpoints.steps(folder)
    if not steps:
        raise UsageError(f"{folder} does not have a checkpoint")
    path = checkpoints.path_of(folder, steps[-1])
    tensors, _ = checkpoints.read(path, configuration.fingerprint())
    sculpture = Sculpture(configuration, torch.device(device or configuration.device or "cpu"))
    try:
        sculpture.load_state(tensors)
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    return sculpture


def elevations(configuration: ClipMesh) -> tuple[float, float]:
    """Heights that a random camera of a metric has, in degrees: what the run was trained from."""
    return configuration.cameras.elevation


def judged(
    folder: pathlib.Path,
    configuration: ClipMesh,
    views: Sequence[tuple[float, float]],
    device: str | None = None,
    load: Callable[..., Any] | None = None,
) -> list[Tensor]:
    """Views [3, H, W] in [0, 1], from azimuth and elevation in degrees.

    Args:
        folder: of the run.
        configuration: of the run.
        views: one a picture.
        device: of rendering; None: the run's own.
        load: what takes the place of loading the run.
    """
    sculpture = load_sculpture(folder, configuration, device)
    azimuths, heights = (list(x) for x in zip(*views, strict=True))
    return list(sculpture.look(azimuths, heights, configuration.size).cpu())


APPLICATION = Application(
    name=NAME,
    class_of=lambda plain: ClipMesh,
    begin=begin,
    result="views.png",
    labels=LABELS,
    to_lower=TO_LOWER,
    expect=expect,
)
