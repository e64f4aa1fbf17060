"""What a run of image synthesis is going to take: memory from sizes, time from a step or two of a copy."""

from __future__ import annotations

import dataclasses
from typing import Any

from ...guidance import LatentDiffusionPrior
from ...runs.expectation import Expectation, seconds_of
from ..memory import expectation, optimised_bytes, prior_bytes
from .configuration import Synthesis
from .latents import LatentOptimiser

TO_LOWER = "the number of prompts or --seeds"


def memory(configuration: Synthesis, prior: LatentDiffusionPrior) -> dict[str, int]:
    """Bytes of a step at its highest point, beside the networks, by what they are for."""
    samples = len(configuration.prompts) * len(configuration.seeds)
    channels, height, width = prior.latent_shape
    largest = prior_bytes(prior, configuration.settings, samples, max(height, width))
    return {"latents": optimised_bytes(samples * channels * height * width), **largest}


def expect(experiment: Any) -> Expectation:
    """What the steps that are left take; a step or two of a copy are made."""
    left = experiment.total - experiment.step
    seconds = left * _seconds(experiment.prior, experiment.configuration, experiment.text, experiment.seeds)
    return expectation(experiment.prior, memory(experiment.configuration, experiment.prior), seconds)


def check_fits(configuration: Synthesis, prior: LatentDiffusionPrior) -> None:
    """Checks that there is memory for a run's steps.

    Raises:
        UsageError: there is not; says how much it would take, of memory and of time.
    """
    c = configuration
    samples = len(c.prompts) * len(c.seeds)
    found = expectation(prior, memory(c, prior), None)
    if not found.fits:
        text = prior.encode_prompt(c.prompts[:1], c.negative_prompt or None)
        seconds = c.steps * samples * _seconds(prior, c, text, c.seeds[:1])
        raise dataclasses.replace(found, seconds=seconds).refusal(f"lower {TO_LOWER}")


def _seconds(prior: LatentDiffusionPrior, configuration: Synthesis, text: Any, seeds: list[int]) -> float:
    c = configuration
    copy = LatentOptimiser(prior, text, seeds, steps=c.steps, learning_rate=c.learning_rate, final_rate=c.final_rate)
    return seconds_of(copy.advance, prior.device)
