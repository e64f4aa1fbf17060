"""The jobs of a sweep of adaptations: each prompt with each guidance and each seed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...runs.jobs import Job
from ...runs.names import name_of
from ...runs.prompts import Prompt
from ...runs.settings import hyphens
from . import command
from .configuration import GUIDANCES, NAME


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
        UsageError: an unknown guidance, or --losses, in whose place a guidance is.
    """
    if list(args.losses) != ["full"]:
        raise UsageError(f"--losses: {NAME} compares guidances: give --guidance {' '.join(GUIDANCES)}, or some of them")
    guidances = list(dict.fromkeys(map(hyphens, getattr(args, "guidance", GUIDANCES[:1]))))
    for guidance in guidances:
        if guidance not in GUIDANCES:
            raise UsageError(f"--guidance: expected some of {', '.join(GUIDANCES)}; got {guidance!r}")
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seed", [0])):
            for guidance in guidances:
                found = command.configure(args, prompt=prompt.text, guidance=guidance, seed=seed, **more)
                labels = {"prompt": prompt.text, "method": NAME, "losses": guidance, "seed": seed}
                jobs.append(Job(f"{name_of(prompt.text)}-{NAME}-{guidance}-seed{seed}", labels, found))
    return jobs
