"""The jobs of a sweep of image synthesis: each prompt with each choice of losses and each seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...errors import UsageError
from ...runs.jobs import Job
from ...runs.names import name_of
from ...runs.prompts import Prompt
from ..variants import switched_off
from . import command
from .configuration import NAME


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what every job takes."""
    command.add_run_arguments(parser)


def plan(prompts: Sequence[Prompt], args: argparse.Namespace) -> list[Job]:
    """The jobs, in the order of the prompts.

    Raises:
        UsageError: two choices of losses that are the same.
    """
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seeds", [0])):
            made: dict[str, Job] = {}
            for losses in dict.fromkeys(args.losses):
                found = command.configure(args, prompts=[prompt.text], seeds=[seed], settings=switched_off(losses))
                labels = {"prompt": prompt.text, "method": NAME, "losses": losses, "seed": seed}
                variant = NAME if losses == "full" else f"{NAME}-{losses}"
                for other, job in made.items():
                    if job.configuration == found:
                        raise UsageError(f"--losses: {other} and {losses} are the same with these λ's")
                made[losses] = Job(f"{name_of(prompt.text)}-{variant}-seed{seed}", labels, found)
            jobs.extend(made.values())
    return jobs
