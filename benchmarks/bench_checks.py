"""What it costs never to be silently wrong: looking before every pass, comparing what has changed, checking a model.

    python -m pytest benchmarks/bench_checks.py

On the embedded model. A step is `LatentDiffusionPrior.gradient` of one sample, its looking included, which is too
little to be seen in a difference of steps; `making a prior` is the constructor on loaded networks, with all its checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.guidance import LatentDiffusionPrior, Schedule
from ldp_fast.guidance.check import check_model

from .timing import measure

SCHEDULER, ASKING = "looking at the scheduler", "asking how noise is added"
PARTS = ("a step", "looking", SCHEDULER, "comparing", ASKING, "checking the networks", "making a prior")
ROUNDS = {"a step": 15, "looking": 50, SCHEDULER: 50}


def prepare(part: str, device: str) -> Callable[[], Any]:
    """The part as a call."""
    prior = LatentDiffusionPrior.from_pretrained("primitives", device=device)
    decoder: Any = prior.decoder
    if part == "looking":
        built = decoder._built()
        return lambda: decoder._fresh(built)
    if part == SCHEDULER:
        return lambda: prior.schedule
    if part == ASKING:
        kind: Any = type(prior.scheduler)
        own = type("Own", (kind,), {"add_noise": lambda self, *given: kind.add_noise(self, *given)})
        scheduler = own.from_config(prior.scheduler.config)
        return lambda: Schedule.from_scheduler(scheduler)
    if part == "comparing":
        return lambda: FrozenDecoder(prior.vae)
    if part == "checking the networks":
        return lambda: check_model(prior)
    if part == "making a prior":
        parts = (prior.unet, prior.vae, prior.scheduler, prior.tokenizer, prior.text_encoder)
        return lambda: LatentDiffusionPrior(*parts, settings=prior.settings, notes=prior.notes)
    text = prior.encode_prompt("a red cube")
    latents = torch.randn(1, *prior.latent_shape, device=device)
    return lambda: prior.gradient(latents, text, timesteps=500)


# Named small as the embedded model is elsewhere, which is what the tests run.
@pytest.mark.parametrize("part", PARTS, ids=["small-" + part.replace(" ", "-") for part in PARTS])
def test_checks(benchmark: Any, device: str, part: str) -> None:
    """One part."""
    benchmark.group = f"checks, embedded model, {device}"
    benchmark.extra_info |= {"backend": part, "device": device}
    run = prepare(part, device)
    run()
    # Checks are the host's: nothing of them can be captured.
    measure(benchmark, run, device, rounds=ROUNDS.get(part, 5), warmup_rounds=1, graph=False)
