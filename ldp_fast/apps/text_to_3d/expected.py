"""What a run of text-to-3D is going to take: memory from sizes, time from a step or two of a copy."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import torch

from ...guidance import LatentDiffusionPrior
from ...runs.expectation import Expectation, seconds_of
from ..memory import encoder_bytes, expectation, optimised_bytes, prior_bytes
from .scene import Scene
from .sections import HashGridOptions, TextTo3D, VoxelOptions
from .trainer import Trainer

TO_LOWER = "--size, --views, --supersample, --steps-per-ray or --voxels"
# Bytes that a sample along a ray keeps until its backward, beside the encoding; and the share of a diagonal's steps
# that lie in the box, of the cameras' rays. On a GPU nothing waits for the number of samples: there is room for all.
SAMPLE, IN_THE_BOX = 80, 0.36
# A copy of a run that does not fit has no more than this.
SMALL = {"views": 1, "supersample": 1, "steps_per_ray": 64}
_PRIOR, _RENDERED = ("prior", "encoder"), ("render", "regularisers", "backward")


def memory(configuration: TextTo3D, prior: LatentDiffusionPrior) -> dict[str, int]:
    """Bytes of a step at its highest point, beside the networks, by what they are for."""
    c = configuration
    field = c.field
    if isinstance(field, VoxelOptions):
        parameters, encoding = field.resolution**3 * (1 + prior.latent_shape[0]), 24
    else:
        parameters, encoding = _entries(field) * 2, 8 * field.levels
    cells = 5 * c.occupancy.resolution**3 if c.occupancy else 0
    share = 1.0 if prior.device.type == "cuda" else IN_THE_BOX

    def rays(views: int, side: int) -> int:
        return int(views * side**2 * c.steps_per_ray * share * (SAMPLE + encoding))

    latents = {"rays": rays(c.views, c.size * c.supersample), **prior_bytes(prior, c.settings, c.views, c.size)}
    stages = [latents]
    if c.refinement is not None:
        views, pixels = c.refinement.views, c.size * prior.pixels_per_latent
        # Of a picture without a network behind it the decoder is not asked for less than of latents.
        found = {"rays": rays(views, c.refinement.size), "encoder": encoder_bytes(prior, views, pixels)}
        stages.append({**found, **prior_bytes(prior, c.settings, views, c.size)})
    largest = max(stages, key=lambda stage: sum(stage.values()))
    return {"field": optimised_bytes(parameters) + cells, **largest}


def _entries(field: HashGridOptions) -> int:
    growth = (field.finest_resolution / field.base_resolution) ** (1 / max(1, field.levels - 1))
    sides = [int(field.base_resolution * growth**level) + 1 for level in range(field.levels)]
    return sum(min(side**3, 2**field.log2_table_size) for side in sides)


def expect(trainer: Trainer) -> Expectation:
    """What the steps that are left take; a step or two of a copy are made."""
    prior: Any = trainer.prior
    needed = memory(trainer.configuration, prior)
    return expectation(prior, needed, _left(trainer))


def check_fits(configuration: TextTo3D, prior: LatentDiffusionPrior) -> None:
    """Checks that there is memory for a run's steps.

    Raises:
        UsageError: there is not; says how much it would take, of memory and of time.
    """
    found = expectation(prior, memory(configuration, prior), None)
    if not found.fits:
        seconds = _of_a_small_one(configuration, prior)
        raise dataclasses.replace(found, seconds=seconds).refusal(f"lower {TO_LOWER}")


def _left(trainer: Trainer) -> float:
    prior: Any = trainer.prior
    copy = Trainer(Scene(trainer.configuration, prior), prior)
    if trainer.step:
        copy.load_state(trainer.state(), {**trainer.facts(), "step": str(trainer.step)})
    latents = max(0, trainer.steps - trainer.step)
    refined = trainer.total - trainer.step - latents
    seconds = latents * seconds_of(copy.advance, prior.device) if latents else 0.0
    if refined:
        copy.scene.refined, copy.scene.step = True, max(copy.step, trainer.steps)
        copy.optimizer = copy.make_optimizer()
        seconds += refined * seconds_of(copy.advance, prior.device)
    return seconds


def _of_a_small_one(configuration: TextTo3D, prior: LatentDiffusionPrior) -> float:
    """All steps' time, from a step with few rays and latents: what is computed grows with their number."""
    c, field = configuration, configuration.field
    small: dict[str, Any] = {name: min(getattr(c, name), most) for name, most in SMALL.items()}
    small |= {"size": min(c.size, prior.latent_shape[1]), "refinement": None}
    if isinstance(field, VoxelOptions):
        small["field"] = dataclasses.replace(field, resolution=min(field.resolution, 32))
    else:
        small["field"] = dataclasses.replace(field, log2_table_size=min(field.log2_table_size, 14))
    less: TextTo3D = dataclasses.replace(c, **small)
    trainer, spent = Trainer(Scene(less, prior), prior), dict[str, float]()

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if prior.device.type == "cuda":
            torch.cuda.synchronize(prior.device)
        spent[name] = time.perf_counter() - started

    def step() -> None:
        spent.clear()
        trainer.advance(part)

    seconds_of(step, prior.device)
    pixels = c.views * c.size**2 / (less.views * less.size**2)
    rays = pixels * (c.supersample / less.supersample) ** 2 * c.steps_per_ray / less.steps_per_ray
    return c.steps * (pixels * sum(spent[name] for name in _PRIOR) + rays * sum(spent[name] for name in _RENDERED))
