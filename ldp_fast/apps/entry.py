"""What an application is to sweeps and metrics, beside what it is to the loop."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..runs import image_files
from ..runs.experiment import Application
from ..runs.jobs import Job
from ..runs.prompts import Prompt
from .options import load_prior


def described(configuration: Any) -> dict[str, Any]:
    """A run's plain settings, with `prompt`, `method` and `seed` among them."""
    return {"method": configuration.application, "seed": 0, **configuration.plain()}


def one_side(configuration: Any) -> tuple[float, float]:
    """A picture has one side only."""
    return 0.0, 0.0


def load_model(configuration: Any, device: str | None = None) -> Any:
    """The prior."""
    return load_prior(configuration, device)


def trained_heights(configuration: Any) -> tuple[float, float]:
    """Heights that a random camera has, in degrees: what the run was trained from, without views from overhead."""
    low, high = configuration.cameras.elevation
    return low, high


def always(configuration: Any, prior: Any) -> None:
    """Whatever a run needs is there."""


class Plan(Protocol):
    """Makes the jobs of a sweep."""

    def __call__(self, prompts: Sequence[Prompt], args: argparse.Namespace, **more: Any) -> list[Job]:
        """Jobs of prompts, a command line, and settings in place of what that says."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An application, and what a sweep and a metric need of it.

    Attributes:
        application: what it is to the loop. Its configuration is a `BaseConfiguration`.
        add_arguments: declares the flags of a job.
        plan: makes the jobs of prompts, flags, and settings that win over them; `args.losses` are the choices of
            losses. A job's labels are `prompt`, `method`, `losses` and `seed`.
        described: a run's plain settings, with `prompt`, `method` and `seed` among them.
        elevations: heights of the cameras from which a metric looks, degrees.
        judged: what a metric sees of a run, see `text_to_3d.judged`; None: the picture that is the run's result.
        samples: the folder in a run whose pictures are what a metric sees, all of them; '': there is not one.
        alone: declares the flags of a run of its own, for `ldp-fast run`; None where a command of its own does.
        configure: makes the configuration of such a run from the command line and settings that win over it.
        check_fits: raises UsageError where a configuration and its model need more memory than there is.
        load: what guides a run, the prior where nothing else is said: from a configuration and the device in place of
            its own, a model with `encode_prompt`, which refuses prompts that it does not know.
        products: names of what may be left out at the end, each with a flag --no-NAME.
        compared: words of a sweep that compares runs of it, for the sweep's help.
    """

    application: Application
    add_arguments: Callable[[argparse.ArgumentParser], None]
    plan: Plan
    described: Callable[[Any], dict[str, Any]] = described
    elevations: Callable[[Any], tuple[float, float]] = one_side
    judged: Callable[..., list[Tensor]] | None = None
    samples: str = ""
    alone: Callable[[argparse.ArgumentParser], None] | None = None
    configure: Callable[..., Any] | None = None
    check_fits: Callable[[Any, Any], None] = always
    products: tuple[str, ...] = ()
    load: Callable[..., Any] = load_model
    compared: str = "--losses lsd full"

    def pictures(self, folder: pathlib.Path, configuration: Any, views: Sequence[Any], **more: Any) -> list[Tensor]:
        """What a metric sees of a run, [3, H, W] in [0, 1], one a view."""
        if self.judged is not None:
            return self.judged(folder, configuration, views, **more)
        return [image_files.read_images([folder / self.application.result])[0]] * len(views)
