"""The jobs of a sweep of text-to-3D: each prompt with each method, each choice of losses and each seed."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence

from ...errors import UsageError
from ...runs.jobs import Job
from ...runs.names import former_slug, name_of
from ...runs.prompts import Prompt
from ...runs.settings import hyphens
from ..variants import switched_off
from . import command
from .compiled import check_renderer
from .sections import METHODS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what every job takes."""
    command.add_run_arguments(parser, several=True)


def plan(prompts: Sequence[Prompt], args: argparse.Namespace) -> list[Job]:
    """The jobs, in the order of the prompts.

    Raises:
        UsageError: an unknown method, one that lacks its renderer, or two choices of losses that are the same.
    """
    methods = list(dict.fromkeys(map(hyphens, getattr(args, "method", ["latent-nerf"]))))
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"--method: expected some of {', '.join(METHODS)}; got {method!r}")
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seed", [0])):
            for method in methods:
                made: dict[str, Job] = {}
                for losses in dict.fromkeys(args.losses):
                    found = command.configure(
                        args, prompt=prompt.text, method=method, seed=seed, settings=switched_off(losses)
                    )
                    check_renderer(found)
                    labels = {"prompt": prompt.text, "method": method, "losses": losses, "seed": seed}
                    variant = variant_name(method, losses)
                    job = Job(
                        f"{name_of(prompt.text)}-{variant}-seed{seed}",
                        labels,
                        found,
                        former=f"{_former_name(prompt.text)}-{variant}-seed{seed}",
                    )
                    for other in made.values():
                        if other.configuration == job.configuration:
                            raise UsageError(
                                f"--losses: {other.labels['losses']} and {losses} are the same with these λ's"
                            )
                    made[losses] = job
                jobs.extend(made.values())
    return jobs


def variant_name(method: str, losses: str) -> str:
    """Method and losses; `full`, the method as it is, goes without saying."""
    return method if losses == "full" else f"{method}-{losses}"


def _former_name(prompt: str) -> str:
    """A prompt when a name held six digits of its digest."""
    short = former_slug(prompt)
    if short.replace("-", " ") != prompt:
        short += "-" + hashlib.sha256(prompt.encode()).hexdigest()[:6]
    return short
