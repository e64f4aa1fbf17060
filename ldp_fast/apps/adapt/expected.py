"""What a run of adaptation is going to take: memory from sizes and a count, time from a step or two of a copy."""

from __future__ import annotations

import itertools
from typing import Any

from ...decoder.free import free_bytes
from ...guidance import LatentDiffusionPrior
from ...runs.distributed import on_this_device
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ..memory import counted, held_bytes, optimised_bytes, prior_bytes
from .configuration import PriorGuided
from .experiment import AdaptExperiment

TO_LOWER = "--batch, --select-samples or --noises"


def expect(experiment: Any) -> Expectation:
    """What the steps that are left take, from a step or two of a copy; nothing of the experiment changes."""
    c, device = experiment.configuration, experiment.device
    kept: dict[int, int] = {}

    def rehearse() -> float:
        other = AdaptExperiment(c, experiment.guide, experiment.pair.source)
        other.pair.load_state(experiment.pair.state())
        networks = itertools.chain(other.pair.source.parameters(), other.pair.adapted.parameters())
        there = [*networks, *_parameters(experiment.guide)]

        def step() -> None:
            other.step = experiment.step
            kept.clear()
            with counted(device, there) as found:
                other.advance()
            kept.update(found)

        share = -(-c.batch // experiment.world) / c.batch
        return share * (experiment.total - experiment.step) * seconds_of(step, device)

    seconds = rehearsed(rehearse, device)
    ranks = on_this_device(device, experiment.world)
    memory = {"generator, encoder and CLIP": sum(kept.values()), **_optimised(experiment), **_prior(experiment)}
    return Expectation(seconds, {k: ranks * x for k, x in memory.items()}, free_bytes(device), str(device))


def _parameters(guide: Any) -> list[Any]:
    if isinstance(guide.model, LatentDiffusionPrior):
        networks: list[Any] = [guide.model.unet, guide.model.vae]
        return [p for network in networks if hasattr(network, "parameters") for p in network.parameters()]
    return [p for clip, _ in getattr(guide, "clips", []) for p in clip.towers.network.parameters()]


def _optimised(experiment: Any) -> dict[str, int]:
    trained = list(experiment.pair.parameters.values())
    needed = optimised_bytes(sum(p.numel() for p in trained))
    return {"optimiser": max(0, needed - held_bytes(trained, experiment.optimizer))}


def _prior(experiment: Any) -> dict[str, int]:
    c, model = experiment.configuration, experiment.guide.model
    if not isinstance(c, PriorGuided) or not isinstance(model, LatentDiffusionPrior):
        return {}
    _, height, width = model.latent_shape
    return prior_bytes(model, c.settings, c.batch, (height, width))
