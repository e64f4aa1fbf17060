"""A run of CLIP-Mesh: what it is to the loop, and to metrics."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...decoder.free import free_bytes
from ...errors import UsageError
from ...guidance.loading import usable
from ...runs import checkpoints
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ...runs.experiment import Application
from ..memory import counted
from . import rasterisers
from .configuration import NAME, ClipMesh
from .experiment import ClipMeshExperiment
from .guide import load_guide
from .sculpture import Sculpture

PRODUCTS = ("film", "mesh")
# Batches of pictures in float32 that a step holds at its highest point, beside what autograd saves. Measured on a CPU
# as the growth of a process, from 1 to 16 pictures of 512²: 4.7.
BESIDE = 5
TO_LOWER = "--views, --size or --refinement"
LABELS = {"render": "rasteriser, forward", "clip": "CLIP, forward", "backward": "backward", "optimiser": "optimiser"}


def begin(configuration: ClipMesh, *, device: str | None = None, rank: int = 0, world: int = 1) -> ClipMeshExperiment:
    """A run's experiment at step 0.

    Raises:
        UsageError: a CLIP, a prompt or a device that cannot be used, or a rasteriser that is not installed.
    """
    where = usable(device or configuration.device or "cpu")
    rasterisers.require(configuration.rasteriser)
    if configuration.rasteriser != rasterisers.ON_GPU and where.type == "cuda" and not rasterisers.drawn_by_gpu():
        print(f"note: pictures are drawn on the CPU; on a GPU: {rasterisers.HOW[rasterisers.ON_GPU]}", file=sys.stderr)
    return ClipMeshExperiment(configuration, load_guide(configuration, device))


def expect(experiment: ClipMeshExperiment) -> Expectation:
    """What the steps that are left take, from a step or two of a copy; nothing of the experiment changes."""
    c, device = experiment.configuration, experiment.device
    kept: dict[int, int] = {}

    def rehearse() -> float:
        other = ClipMeshExperiment(c, experiment.guide)
        there = [*experiment.guide.clip.towers.network.parameters(), *other.sculpture.mesh.parameters()]
        other.sculpture.load_state(experiment.sculpture.state())

        def step() -> None:
            other.step = experiment.step
            with counted(device, there) as found:
                other.advance()
            kept.clear()
            kept.update(found)

        return (experiment.total - experiment.step) * seconds_of(step, device)

    seconds = rehearsed(rehearse, device)
    # Backgrounds, pictures and their gradients are not among what is saved.
    beside = BESIDE * c.views * 3 * c.size**2 * torch.float32.itemsize
    memory = {"pictures and CLIP": sum(kept.values()) + beside}
    return Expectation(seconds, memory, free_bytes(device), str(device))


def load_sculpture(folder: pathlib.Path, configuration: ClipMesh, device: str | None = None) -> Sculpture:
    """The mesh of a run's newest checkpoint.

    Args:
        folder: of the run.
        configuration: of the run.
        device: of rendering; None: the run's own, or the CPU where there is no GPU. What draws is what draws there.

    Raises:
        UsageError: there is no checkpoint, or it is damaged or of another configuration; the device cannot be used, or
            what draws is not installed.
    """
    steps = checkpoints.steps(folder)
    if not steps:
        raise UsageError(f"{folder} does not have a checkpoint")
    path = checkpoints.path_of(folder, steps[-1])
    tensors, _ = checkpoints.read(path, configuration.fingerprint())
    where = device or configuration.device or "cpu"
    if device is None and where.startswith("cuda") and not torch.cuda.is_available():
        where = "cpu"
    kind = usable(where).type
    # A run's fingerprint has its own rasteriser in it, so that it is replaced after the checkpoint was read.
    shown = dataclasses.replace(configuration, rasteriser=rasterisers.default_for(kind))
    sculpture = Sculpture(shown, torch.device(where))
    try:
        sculpture.load_state(tensors)
    except ValueError as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    return sculpture


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
        load: what takes the place of loading the run: from its folder and `device=`, a `Sculpture`.
    """
    sculpture = load(folder, device=device) if load else load_sculpture(folder, configuration, device)
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
