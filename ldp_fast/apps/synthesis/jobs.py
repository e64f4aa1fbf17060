"""The jobs of a sweep of image synthesis: each prompt with each choice of losses and each seed."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from ...runs.jobs import Job
from ...runs.names import name_of
from ...runs.prompts import Prompt
from ..variants import configured, variant_name
from . import command
from .configuration import NAME, Synthesis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what every job takes."""
    command.add_run_arguments(parser)


def plan(prompts: Sequence[Prompt], args: argparse.Namespace, **more: Any) -> list[Job]:
    """The jobs, in the order of the prompts.

    Args:
        prompts: of the sweep.
        args: the command line.
        more: settings in place of what it says, such as `device`.

    Raises:
        UsageError: two choices of losses that are the same.
    """
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seeds", [0])):
            configure = functools.partial(_configure, args, prompts=[prompt.text], seeds=[seed], **more)
            for losses, found in configured(args.losses, configure).items():
                labels = {"prompt": prompt.text, "method": NAME, "losses": losses, "seed": seed}
                jobs.append(Job(f"{name_of(prompt.text)}-{variant_name(NAME, losses)}-seed{seed}", labels, found))
    return jobs


def _configure(args: argparse.Namespace, settings: dict[str, Any], **said: Any) -> Synthesis:
    return command.configure(args, settings=settings, **said)
