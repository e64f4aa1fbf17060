"""Adaptations on two processes: the same run as on one, with a guide of a test and with the embedded models."""

from __future__ import annotations

import os
import pathlib
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.apps.adapt.experiment import AdaptExperiment
from ldp_fast.apps.adapt.guides import load_guide
from ldp_fast.apps.adapt.run import APPLICATION, run_adaptation
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints
from ldp_fast.runs.distributed import ranks

from ..support.ranks import needs_gloo, run_on_ranks
from . import adapt_stub as stub
from .text_to_3d_runs import assert_same, without_pictures

# Guided by the embedded models: all that looks at the pictures of a step, and what chooses layers.
GUIDED: list[dict[str, Any]] = [
    {"guidance": "ldp", "regularisers": {"directional": 0.5, "lpips": 5.0}, "pixel_clip": 0.95, "noise": "fresh"},
    {"guidance": "lsd", "select_layers": 2, "select_samples": 2},
    {"guidance": "clip-directional"},
]
STEPS = 3


def guided(said: dict[str, Any], rank: int = 0, world: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """The state and the history after some steps of two pictures."""
    guide = load_guide(stub.configuration(**said))
    experiment = stub.experiment(guide, rank=rank, world=world, steps=STEPS, batch=2, learning_rate=0.005, **said)
    for _ in range(STEPS):
        experiment.advance()
    return experiment.state(), experiment.history


MORE: dict[str, Any] = {"batch": 3, "steps": 5, "select_layers": 3, "select_samples": 3, "select_every": 2}


def work_of_a_rank(rank: int, folder: str) -> Any:
    """The state after some steps, with and without a choice of layers; and a run that is stopped by one of them."""
    states = []
    for said in ({"batch": 3, "steps": 5, "noise": "fresh"}, MORE):
        experiment = stub.experiment(rank=rank, world=2, **said)
        for _ in range(5):
            experiment.advance()
        states.append((experiment.state(), experiment.layers))
    real = [guided(said, rank, 2) for said in GUIDED]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    patch = pytest.MonkeyPatch()
    stub.guided_by_red(patch)
    without_pictures(patch)
    advance = AdaptExperiment.advance

    def stopped(self: AdaptExperiment, *arguments: Any) -> None:
        if self.step == 2 and rank == 1:
            os.kill(os.getpid(), signal.SIGINT)
        advance(self, *arguments)

    patch.setattr(AdaptExperiment, "advance", stopped)
    source = str(pathlib.Path(folder) / "generator")
    return states, real, run_adaptation(pathlib.Path(folder) / "run", stub.configuration(source, steps=6))


@needs_gloo
def test_two_processes_are_one_run(tmp_path: pathlib.Path) -> None:
    stub.saved(tmp_path / "generator")
    (zero, real_zero, stopped_zero), (one, real_one, stopped_one) = run_on_ranks(work_of_a_rank, str(tmp_path))
    assert stopped_zero == stopped_one == 130 and checkpoints.steps(tmp_path / "run") == [3]
    for (state, layers), (other, others), said in zip(
        zero, one, ({"batch": 3, "steps": 5, "noise": "fresh"}, MORE), strict=True
    ):
        # They hold the same, bit for bit: each adds the same sum.
        assert_same(state, other)
        alone = stub.experiment(**said)
        for _ in range(5):
            alone.advance()
        assert layers == others == alone.layers
        for name, x in alone.state().items():
            assert torch.allclose(state[name], x, rtol=5e-3, atol=1e-4), name
    for (state, history), (other, also), given in zip(real_zero, real_one, GUIDED, strict=True):
        assert_same(state, other)
        assert torch.equal(history, also)
        assert_alike(state, history, *guided(given))


def assert_alike(state: dict[str, Tensor], history: Tensor, alone: dict[str, Tensor], expected: Tensor) -> None:
    """Up to the rounding of float32: of a batch of one, and of a sum in another order."""
    torch.testing.assert_close(history, expected, rtol=1e-4, atol=1e-6)
    before = stub.tiny().state_dict()
    weights = [name for name in alone if name.startswith("generator.")]
    for name in weights:
        change = float((alone[name] - before[name.removeprefix("generator.")]).norm())
        # Adam divides small numbers by small numbers.
        assert float((state[name] - alone[name]).norm()) <= 5e-4 * change + 1e-7, name
    assert len(weights) >= 4 and any(float((alone[n] - before[n[10:]]).norm()) > 0 for n in weights)


def test_fewer_samples_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    given = stub.configuration(batch=3)
    with (
        pytest.raises(UsageError, match=r"--batch: expected at least 4, .* got 3"),
        ranks(APPLICATION.shares(given), given.device),
    ):
        pytest.fail("it began")
