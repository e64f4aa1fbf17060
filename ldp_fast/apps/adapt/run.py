"""A run of adaptation: what it is to the loop."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from ...errors import UsageError
from ...generators import load
from ...generators.files import WEIGHTS
from ...guidance import LatentDiffusionPrior
from ...runs import loop
from ...runs.experiment import Application
from ...runs.flags import flags_of
from ...runs.profile import Profile
from ...zoo.generator import all_view_words, view_words
from ..adapted import WITHIN, check_apart, located
from .configuration import BY_Z, NAME, Adaptation, AnyGuidance, PriorGuided, class_of
from .expected import TO_LOWER, expect
from .experiment import AdaptExperiment, trained_names
from .guides import PriorGuide, load_guide
from .products import RESULT

PRODUCTS = ("film",)
LABELS = {
    "unet": "UNet",
    "decoder": "decoder (feature matching)",
    "selection": "choice of layers",
    "source": "source generator",
    "generator": "generator, forward",
    "guide": "guide, with the encoder or CLIP",
    "backward": "generator, backward",
    "optimiser": "optimiser",
}


def load_source(configuration: Adaptation) -> Any:
    """The generator that is adapted, on the CPU; of a run of adapt, what that run has made.

    Raises:
        UsageError: it is missing, damaged or of another kind; names the flag.
    """
    with _naming_the_flag():
        return load(located(configuration.generator))


@contextlib.contextmanager
def naming_flags() -> Iterator[None]:
    """Around `load_guide`: what is wrong is said of flags, in place of settings."""
    try:
        yield
    except UsageError as error:
        place, colon, said = str(error).partition(": ")
        names = {flag.place: flag.name for flag in flags_of(AnyGuidance)}
        if not colon or place not in names:
            raise
        raise UsageError(f"{names[place]}: {said}") from None


def check_folder(folder: pathlib.Path, configuration: Adaptation) -> None:
    """Checks that a run in a folder does not destroy the generator that it adapts.

    Raises:
        UsageError: it would, or there is no such generator; names the flag.
    """
    with _naming_the_flag():
        check_apart(configuration.generator, folder)


@contextlib.contextmanager
def _naming_the_flag() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        said = str(error)
        raise UsageError(f"--{said}" if said.startswith("generator: ") else f"--generator: {said}") from None


def begin(configuration: Adaptation, *, device: str | None = None, rank: int = 0, world: int = 1) -> AdaptExperiment:
    """A run's experiment at step 0.

    Raises:
        UsageError: a generator, a model, a prompt or a device that cannot be used; --train or --select-layers that the
            generator does not have.
    """
    # The smaller one first: what is wrong with it is said at once.
    source = load_source(configuration)
    trained_names(configuration, source)
    with naming_flags():
        guide = load_guide(configuration, device)
    words = None
    if isinstance(configuration, PriorGuided) and configuration.view_prompts == BY_Z:
        words = view_words
        if isinstance(guide, PriorGuide):
            # What the model does not know is said now, and no step encodes a text.
            guide.know_views(all_view_words())
    return AdaptExperiment(configuration, guide, source, view_words=words, rank=rank, world=world)


def _time_networks(experiment: Any, profile: Profile) -> None:
    if isinstance(experiment.guide.model, LatentDiffusionPrior):
        profile.time_prior(experiment.guide.model)


APPLICATION = Application(
    name=NAME,
    class_of=class_of,
    begin=begin,
    result=RESULT,
    labels=LABELS,
    essential={"generator": f"{WITHIN}/{WEIGHTS}"},
    networks=_time_networks,
    shares=lambda configuration: (configuration.batch, "--batch"),
    to_lower=TO_LOWER,
    check=check_folder,
    expect=expect,
)


def run_adaptation(folder: pathlib.Path, configuration: Adaptation, options: loop.Options | None = None) -> int:
    """Runs a configuration in a folder; see `runs.loop.run`."""
    return loop.run(APPLICATION, folder, configuration, options)
