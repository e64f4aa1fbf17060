"""The jobs of a sweep of text-to-3D: each prompt with each method, each choice of losses and each seed."""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UsageError
from ...runs.jobs import Job
from ...runs.names import former_slug, name_of
from ...runs.prompts import Prompt
from ...runs.settings import hyphens
from ..variants import CLIP, configured, variant_name
from . import command
from .compiled import check_renderer
from .sections import ALL_METHODS, DREAM_FIELDS, TextTo3D


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what every job takes."""
    command.add_run_arguments(parser, several=True)


def plan(prompts: Sequence[Prompt], args: argparse.Namespace, **more: Any) -> list[Job]:
    """The jobs, in the order of the prompts.

    Args:
        prompts: of the sweep.
        args: the command line.
        more: settings in place of what it says, such as `device`.

    Raises:
        UsageError: an unknown method, one that lacks its renderer, or two choices of losses that are the same.
    """
    unsaid = [DREAM_FIELDS if command.guided_by_clip(args) else "latent-nerf"]
    methods = list(dict.fromkeys(map(hyphens, getattr(args, "method", unsaid))))
    for method in methods:
        if method not in ALL_METHODS:
            raise UsageError(f"--method: expected some of {', '.join(ALL_METHODS)}; got {method!r}")
    if methods == [DREAM_FIELDS] and args.losses != ["full"]:
        raise UsageError(f"--losses: the terms of the prior, which does not guide {DREAM_FIELDS}")
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seed", [0])):
            for method in methods:
                said = {"prompt": prompt.text, "method": method, "seed": seed, **more}
                configure: Callable[[dict[str, Any]], TextTo3D] = functools.partial(_configure, args, **said)
                choices = {CLIP: configure({})} if method == DREAM_FIELDS else configured(args.losses, configure)
                for losses, found in choices.items():
                    labels = {"prompt": prompt.text, "method": method, "losses": losses, "seed": seed}
                    rest = f"{method if losses == CLIP else variant_name(method, losses)}-seed{seed}"
                    former = f"{_former_name(prompt.text)}-{rest}"
                    jobs.append(Job(f"{name_of(prompt.text)}-{rest}", labels, found, former))
    return jobs


def _configure(args: argparse.Namespace, settings: dict[str, Any], **said: Any) -> TextTo3D:
    found = command.configure(args, settings=settings, **said)
    check_renderer(found)
    return found


def _former_name(prompt: str) -> str:
    """A prompt when a name held six digits of its digest."""
    short = former_slug(prompt)
    if short.replace("-", " ") != prompt:
        short += "-" + hashlib.sha256(prompt.encode()).hexdigest()[:6]
    return short
