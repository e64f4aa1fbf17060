"""What a run of adaptation is going to take: memory from sizes and a count, time from a step or two of a copy."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from ...decoder.free import free_bytes
from ...guidance import LatentDiffusionPrior
from ...runs.distributed import on_this_device
from ...runs.expectation import Expectation, rehearsed, seconds_of
from ..memory import counted, held_bytes, optimised_bytes, prior_bytes
from . import selection
from .configuration import PriorGuided
from .experiment import AdaptExperiment, share_of

TO_LOWER = "--batch, --select-samples or --noises"


def expect(experiment: Any) -> Expectation:
    """What the steps that are left take on a process's share of them; nothing of the experiment changes."""
    share, device = share_of(experiment.configuration.batch, experiment.world), experiment.device
    kept: list[int] = []
    seconds = rehearsed(lambda: _rehearse(experiment, share, kept), device)
    fits, graph = seconds is not None, max(kept, default=0)
    if not fits and share > 1:
        # What a backward needs grows with the pictures.
        one: list[int] = []
        fits = rehearsed(lambda: _rehearse(experiment, 1, one), device) is not None
        graph = max(graph, share * max(one, default=0))
    memory = {"generator, encoder and CLIP": graph, **_optimised(experiment), **_prior(experiment, share)}
    ranks = on_this_device(device, experiment.world)
    needed = {name: ranks * count for name, count in memory.items()}
    return Expectation(seconds, needed, free_bytes(device), str(device), least=not fits)


def _rehearse(experiment: Any, batch: int, kept: list[int]) -> float:
    """Seconds of the steps that are left, from a step or two of a copy that is alone and has so many pictures.

    Args:
        experiment: the run's.
        batch: pictures in a step of the copy.
        kept: is told the bytes that a backward needs of each step and each choice of layers.
    """
    c, device = experiment.configuration, experiment.device
    looked_at = share_of(c.select_samples, experiment.world)
    other = AdaptExperiment(
        dataclasses.replace(c, batch=batch, select_samples=looked_at),
        experiment.guide,
        experiment.pair.source,
        view_words=experiment.view_words,
    )
    other.pair.load_state(experiment.pair.state())
    if experiment.layers:
        selection.train_only(other.pair.parameters, experiment.layers)
    networks = itertools.chain(other.pair.source.parameters(), other.pair.adapted.parameters())
    there = [*networks, *_parameters(experiment.guide)]

    def timed(work: Callable[[], None]) -> float:
        def once() -> None:
            other.step = experiment.step
            with counted(device, there) as found:
                try:
                    work()
                finally:
                    kept.append(sum(found.values()))

        return seconds_of(once, device)

    left = range(experiment.step, experiment.total)
    choices = sum(step % c.select_every == 0 for step in left) if c.select_layers is not None else 0
    # What is chosen first is what the step trains.
    chosen = choices * timed(other.select) if choices else 0.0
    return chosen + len(left) * timed(other.learn)


def _parameters(guide: Any) -> Iterator[Tensor]:
    """Of the networks that the pictures' gradient goes through: they are there already."""
    networks: list[Any] = [clip.towers.network for clip, _ in getattr(guide, "clips", [])]
    if isinstance(guide.model, LatentDiffusionPrior):
        networks += [guide.model.unet, guide.model.vae]
        if guide.regularisers.distance is not None:
            networks += guide.regularisers.distance.networks
    for network in networks:
        if hasattr(network, "parameters"):
            yield from network.parameters()


def _optimised(experiment: Any) -> dict[str, int]:
    trained = list(experiment.pair.parameters.values())
    needed = optimised_bytes(sum(p.numel() for p in trained))
    return {"optimiser": max(0, needed - held_bytes(trained, experiment.optimizer))}


def _prior(experiment: Any, samples: int) -> dict[str, int]:
    """Of the prior's gradient of so many pictures."""
    c, model = experiment.configuration, experiment.guide.model
    if not isinstance(c, PriorGuided) or not isinstance(model, LatentDiffusionPrior):
        return {}
    _, *size = model.latent_shape
    found = prior_bytes(model, c.settings, samples, (size[0], size[1]))
    if c.regularisers.directional:
        # The UNet sees the source's latents in one batch with them; the decoder does not.
        both = prior_bytes(model, dataclasses.replace(c.settings, lambda_fm=0.0), 2 * samples, (size[0], size[1]))
        found = max(found, both, key=lambda parts: sum(parts.values()))
    return found
