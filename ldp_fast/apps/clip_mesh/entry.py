"""CLIP-Mesh, as sweeps and evaluations know it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...runs.jobs import Job
from ...runs.names import name_of
from ...runs.prompts import Prompt
from ..entry import Entry, trained_heights
from ..variants import CLIP, guided_by_clip
from . import command
from .configuration import NAME, ClipMesh, configure
from .guide import load_guide
from .run import APPLICATION, PRODUCTS, judged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what every job takes."""
    command.add_run_arguments(parser, several=True)


def plan(prompts: Sequence[Prompt], args: argparse.Namespace, **more: Any) -> list[Job]:
    """The jobs: each prompt with each seed, in the order of the prompts.

    Args:
        prompts: of the sweep.
        args: the command line.
        more: settings in place of what it says, such as `device`.

    Raises:
        UsageError: terms of the diffusion model's losses are chosen, which there are not.
    """
    if list(args.losses) != ["full"]:
        raise UsageError(f"--losses: {NAME} is guided by CLIP and does not have these terms; leave it out")
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seed", [0])):
            found = configure(args, prompt=prompt.text, seed=seed, **more)
            labels = {"prompt": prompt.text, "method": NAME, "losses": CLIP, "seed": seed}
            jobs.append(Job(f"{name_of(prompt.text)}-{NAME}-seed{seed}", labels, found))
    return jobs


def described(configuration: ClipMesh) -> dict[str, Any]:
    """The run's plain settings, with the prior's terms, by which tables tell runs apart."""
    return {**configuration.plain(), "method": NAME, **guided_by_clip()}


ENTRY = Entry(
    APPLICATION,
    add_arguments,
    plan,
    described,
    elevations=trained_heights,
    judged=judged,
    products=PRODUCTS,
    load=load_guide,
    compared="--seeds 0 1 2",
)
