"""What a step draws is drawn once, on the CPU, and reaches a device without waiting; each rank has its share of it."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ldp_fast.apps.adapt import experiment as experiments
from ldp_fast.apps.adapt.draws import NOISE, Draws, carried

from . import adapt_stub as stub

CUDA = torch.device("cuda")


class Noted:
    """Stands for a tensor on the CPU, and notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.dtype = torch.float32

    def to(self, where: Any, **options: Any) -> Noted:
        self.done.append((where, options))
        return self

    def pin_memory(self) -> Noted:
        self.done.append("pinned")
        return self


def test_memory_is_pinned_before_it_is_copied_to_cuda() -> None:
    noted: Any = Noted()
    carried(noted, CUDA, torch.float16)
    assert noted.done == [(torch.float16, {}), "pinned", (CUDA, {"non_blocking": True})]
    noted = Noted()
    carried(noted, torch.device("cpu"))
    assert "pinned" not in noted.done
    assert carried(torch.ones(2), torch.device("cpu"), torch.float64).dtype == torch.float64


def synthesis(kept: list[Any], made_by: Any, w: Any, noise: Any) -> Any:
    kept.append(noise)
    return made_by(w, noise=noise)


def test_noise_is_what_the_generator_draws_itself() -> None:
    generator, draws = stub.tiny(), Draws(3, 1, (0, 4))
    w = generator.mapping(draws.latents(6))
    shapes = [x.shape for name, x in generator.named_buffers() if name.endswith(".noise")]
    noise = draws.noises(shapes, w.device, w.dtype)
    assert [list(x.shape) for x in noise] == [[2, 1, side, side] for side in (4, 8, 8, 16, 16)]
    assert torch.equal(generator.synthesis(w, noise), generator.synthesis(w, draws.generators(NOISE)))


@pytest.mark.parametrize("said", [{}, {"select_layers": 2, "select_samples": 3}])
def test_fresh_noise_is_drawn_once_for_both_generators(said: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, generators = list[Draws](), Draws.generators

    def noted(self: Draws, stream: int = 5) -> list[torch.Generator]:
        if stream == NOISE:
            drawn.append(self)
        return generators(self, stream)

    experiment = stub.experiment(noise="fresh", batch=2, **said)
    kept = list[Any]()
    for generator in (experiment.pair.source, experiment.pair.adapted):
        monkeypatch.setattr(generator, "synthesis", functools.partial(synthesis, kept, generator.synthesis))
    monkeypatch.setattr(Draws, "generators", noted)
    experiment.advance()
    assert len(drawn) == len(set(drawn)) == (3 if said else 1)
    assert len(kept) == 2 * len(drawn) and all(a is b for a, b in zip(kept[::2], kept[1::2], strict=True))


def test_a_rank_looks_at_no_more_pictures_at_once_than_it_trains_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.distributed, "add", lambda tensor: None)
    for world, most in ((1, 4), (2, 2), (3, 2)):
        guide = stub.Red()
        experiment = stub.experiment(guide, rank=0, world=world, batch=4, select_layers=2, select_samples=12)
        experiment.select()
        sizes = [len(draws.samples) for draws, _ in guide.seen]
        assert max(sizes) == most and sum(sizes) == 12 // world
