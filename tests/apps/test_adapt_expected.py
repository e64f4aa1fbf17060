"""What a run of adaptation says that it takes: a rank's share, choices of layers apart, and what did not fit."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ldp_fast.apps.adapt import expected
from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.apps.adapt.guides import load_guide

from . import adapt_stub as stub


@pytest.mark.parametrize(("world", "share"), [(1, 5), (2, 3), (5, 1)])
def test_a_rank_rehearses_its_share_alone(world: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected, "free_bytes", lambda device: 10**9)
    guide = stub.Red()
    experiment = stub.experiment(guide, batch=5, steps=30, world=world, select_layers=2, select_samples=10)
    before = experiment.state()
    expected.expect(experiment)
    assert {len(draws.samples) for draws, _ in guide.seen} <= {share, 10 // world % share}
    after = experiment.state()
    assert experiment.step == 0 and all(torch.equal(after[name], x) for name, x in before.items())


def test_memory_is_that_of_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        (batch, world): expected.expect(stub.experiment(batch=batch, steps=30, world=world)).memory
        for batch, world in ((4, 1), (4, 2), (2, 1))
    }
    name = "generator, encoder and CLIP"
    assert needed[4, 2] == needed[2, 1] and 1.5 < needed[4, 1][name] / needed[4, 2][name] < 2.1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    both = expected.expect(stub.experiment(batch=4, steps=30, world=2)).memory
    assert both == {part: 2 * count for part, count in needed[4, 2].items()}


def _noted(self: AdaptExperiment, done: list[str], name: str, work: Any, *parts: Any) -> None:
    done.append(name)
    work(self, *parts)


@pytest.mark.parametrize(
    ("step", "every", "layers", "seconds"),
    [
        (0, 3, 2, 4 * 7 + 10),
        (0, 1, 2, 10 * 7 + 10),
        (1, 3, 2, 3 * 7 + 9),
        (7, 8, 2, 1 * 7 + 3),
        (9, 8, 2, 1),
        (0, 3, None, 10),
    ],
)
def test_only_steps_that_choose_layers_take_the_time_for_it(
    step: int, every: int, layers: int | None, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = list[str]()
    for name in ("select", "learn"):
        noted = functools.partialmethod(_noted, done, name, getattr(AdaptExperiment, name))
        monkeypatch.setattr(AdaptExperiment, name, noted)

    def timed(work: Any, device: torch.device) -> float:
        work()
        return 7.0 if done[-1] == "select" else 1.0

    experiment = stub.experiment(steps=10, select_layers=layers, **({"select_every": every} if layers else {}))
    for _ in range(step):
        experiment.advance()
    monkeypatch.setattr(expected, "seconds_of", timed)
    assert expected.expect(experiment).seconds == seconds


def test_the_unet_sees_the_source_too_where_the_regulariser_compares_them() -> None:
    found = []
    for weight in (0.0, 1.0):
        said: dict[str, Any] = {"guidance": "lsd", "regularisers": {"directional": weight}}
        guide = load_guide(stub.configuration(**said))
        found.append(expected._prior(stub.experiment(guide, **said), 3))
    assert found[1] == {"UNet": 2 * found[0]["UNet"]}


@pytest.mark.parametrize("most", [1, 0])
def test_what_does_not_fit_is_not_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the whole batch lacks memory; one of a single picture may have it."""
    name = "generator, encoder and CLIP"
    whole = expected.expect(stub.experiment(batch=4, steps=30)).memory[name]
    guided = AdaptExperiment._guided

    def lacks(self: AdaptExperiment, pictures: Any, *rest: Any) -> Any:
        if len(pictures) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return guided(self, pictures, *rest)

    monkeypatch.setattr(AdaptExperiment, "_guided", lacks)
    found = expected.expect(stub.experiment(batch=4, steps=30))
    assert found.seconds is None and found.memory[name] == pytest.approx(whole, rel=0.3)
    assert found.least == (most == 0) and ("take more than" if most == 0 else "take about") in found.line()
