"""What a run of image synthesis is going to take: memory from sizes, time from a step or two of a copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ...guidance import LatentDiffusionPrior
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ...runs.flags import one_of
from ..memory import expectation, held_bytes, optimised_bytes, prior_bytes
from .configuration import Synthesis
from .latents import LatentOptimiser

TO_LOWER = "the number of prompts, --seeds or --noises"


def samples_of(configuration: Synthesis) -> int:
    """Latents of a step, which are one batch: one for each prompt and seed."""
    return len(configuration.prompts) * len(configuration.seeds)


def memory(configuration: Synthesis, prior: LatentDiffusionPrior) -> dict[str, int]:
    """Bytes of a step at its highest point, beside the networks, by what they are for.

    Raises:
        UsageError: there is feature matching, and the prior lacks a VAE, or has one that it does not know.
    """
    samples = samples_of(configuration)
    channels, height, width = prior.latent_shape
    largest = prior_bytes(prior, configuration.settings, samples, (height, width))
    return {"latents": optimised_bytes(samples * channels * height * width), **largest}


def expect(experiment: Any) -> Expectation:
    """What the steps that are left take; a step or two of a copy are made, if there is memory for the copy."""
    prior, c = experiment.prior, experiment.configuration
    needed = memory(c, prior)
    held = held_bytes([experiment.latents], experiment.optimizer)
    found = expectation(prior, {**needed, "latents": max(0, needed["latents"] - held)})
    if expectation(prior, needed).fits:
        left = experiment.total - experiment.step
        seconds = rehearsed(lambda: left * _seconds(prior, c, experiment.text, experiment.seeds), prior.device)
        found = dataclasses.replace(found, seconds=seconds)
    return found


def check_fits(configuration: Synthesis, prior: LatentDiffusionPrior) -> None:
    """Checks that there is memory for a run's steps.

    Raises:
        UsageError: there is not; says how much memory and time it would take, and what to lower. Or see `memory`.
    """
    c = configuration
    found = expectation(prior, memory(c, prior))
    if not found.fits:
        seconds = rehearsed(lambda: _of_one_after_the_other(c, prior), prior.device)
        raise dataclasses.replace(found, seconds=seconds).refusal(advice(c, prior, found.largest))


def advice(configuration: Synthesis, prior: LatentDiffusionPrior, largest: list[str]) -> str:
    """What makes a run smaller.

    Args:
        configuration: of the run.
        prior: with its networks.
        largest: keys of `memory`.
    """
    names = ["the number of prompts", "--seeds"] if samples_of(configuration) > 1 else []
    # The decoder sees their mean only.
    names += ["--noises"] if configuration.settings.noises > 1 and "UNet" in largest else []
    if names:
        return f"lower {one_of(names)}"
    half = "--dtype bfloat16 or " if prior.dtype.itemsize > torch.bfloat16.itemsize else ""
    return f"take {half}a smaller --model"


def _of_one_after_the_other(c: Synthesis, prior: LatentDiffusionPrior) -> float:
    """All steps' time, from a step with one of the latents."""
    settings = dataclasses.replace(c.settings, noises=1)
    one = dataclasses.replace(c, prompts=c.prompts[:1], seeds=c.seeds[:1], settings=settings)
    if not expectation(prior, memory(one, prior)).fits:
        raise MemoryError("not even one of them fits")
    text = prior.encode_prompt(one.prompts, c.negative_prompt or None)
    # The decoder's part does not grow with the noises: too long rather than too short.
    return c.steps * samples_of(c) * c.settings.noises * _seconds(prior.with_settings(noises=1), c, text, one.seeds)


def _seconds(prior: LatentDiffusionPrior, configuration: Synthesis, text: Any, seeds: list[int]) -> float:
    c = configuration
    copy = LatentOptimiser(prior, text, seeds, steps=c.steps, learning_rate=c.learning_rate, final_rate=c.final_rate)

    def step() -> None:
        # The same one twice: there may not be two.
        copy.step = 0
        copy.advance()

    return seconds_of(step, prior.device)
