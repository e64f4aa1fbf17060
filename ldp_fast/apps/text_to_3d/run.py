"""A run of text-to-3D: what it is to the loop."""

from __future__ import annotations

import pathlib
from typing import Any

from ...errors import UsageError
from ...guidance import LatentDiffusionPrior
from ...nerf.fields import MOST_CHANNELS
from ...runs import loop
from ...runs.experiment import Application
from ...runs.profile import Profile
from ..options import load_prior
from .compiled import check_renderer
from .dream_fields import DreamFieldsTrainer
from .expected import TO_LOWER, check_fits, expect
from .guide import ClipGuide, load_guide
from .pictures.trajectories import TRAJECTORIES
from .scene import Scene
from .sections import NAME, DreamFields, PriorGuided, TextTo3D, class_of
from .trainer import Trainer

# What may be left out, each of which takes a while.
PRODUCTS = ("film", "mesh")
LABELS = {
    "unet": "UNet",
    "decoder": "decoder (feature matching)",
    "encoder": "encoder (refinement)",
    "render": "renderer, forward",
    "backward": "backward (renderer, encoder)",
    "prior": "losses and gradient",
    "clip": "CLIP and its crops",
    "regularisers": "regularisers",
    "occupancy": "occupancy grid",
    "optimiser": "optimiser",
}


def check_channels(prior: LatentDiffusionPrior) -> None:
    """Checks that a field can make the model's latents.

    Raises:
        UsageError: they have more channels.
    """
    channels = prior.latent_shape[0]
    if channels > MOST_CHANNELS:
        raise UsageError(
            f"--model: expected one whose latents have at most {MOST_CHANNELS} channels, the most that a field makes "
            f"here; got {channels}"
        )


def begin(
    configuration: TextTo3D, *, device: str | None = None, rank: int = 0, world: int = 1
) -> Trainer | DreamFieldsTrainer:
    """A run's experiment at step 0.

    Args:
        configuration: of the run.
        device: in place of the configuration's.
        rank, world: which share of a step's views is this process's.

    Raises:
        UsageError: a model, a prompt or a device that cannot be used, no renderer for the method, or too little memory.
    """
    check_renderer(configuration, device)
    model = load(configuration, device)
    if isinstance(model, LatentDiffusionPrior):
        check_channels(model)
    check_fits(configuration, model, world)
    scene = Scene(configuration, model)
    if isinstance(model, ClipGuide):
        return DreamFieldsTrainer(scene, model, rank=rank, world=world)
    return Trainer(scene, model, rank=rank, world=world)


def load(configuration: TextTo3D, device: str | None = None) -> LatentDiffusionPrior | ClipGuide:
    """What guides a run: the prior, or CLIP.

    Args:
        configuration: of the run.
        device: in place of the configuration's.

    Raises:
        UsageError: see `load_prior` and `load_guide`.
    """
    if isinstance(configuration, PriorGuided):
        return load_prior(configuration, device)
    assert isinstance(configuration, DreamFields)
    return load_guide(configuration, device)


def _time_networks(trainer: Any, profile: Profile) -> None:
    if isinstance(trainer, Trainer):
        profile.time_prior(trainer.prior)


APPLICATION = Application(
    name=NAME,
    class_of=class_of,
    begin=begin,
    result="views.png",
    labels=LABELS,
    networks=_time_networks,
    shares=lambda configuration: (configuration.views, "--views"),
    to_lower=TO_LOWER,
    expect=expect,
    former_files=(
        *("views.png", "depth.png", "opacity.png", "normals.png", "turntable.mp4", "turntable.gif"),
        *("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.png", "mesh.json"),
        *(f"{name}-*.mp4" for name in TRAJECTORIES),
    ),
)


def run_text_to_3d(folder: pathlib.Path, configuration: TextTo3D, options: loop.Options | None = None) -> int:
    """Runs a configuration in a folder; see `runs.loop.run`."""
    return loop.run(APPLICATION, folder, configuration, options)
