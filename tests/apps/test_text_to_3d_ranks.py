"""The views of a step on two processes: the same run as on one, and both stop together."""

from __future__ import annotations

import os
import pathlib
import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.apps.text_to_3d.run import APPLICATION, run_text_to_3d
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints
from ldp_fast.runs.distributed import ranks

from ..support.ranks import needs_gloo, run_on_ranks
from . import text_to_3d_runs as runs


def steps(rank: int, world: int, given: dict[str, Any], count: int) -> tuple[dict[str, Tensor], Tensor]:
    """The scene's state and the history after some steps."""
    trainer = runs.trainer(given, rank=rank, world=world)
    for _ in range(count):
        trainer.advance()
    return {name: x.detach().clone() for name, x in trainer.scene.state_dict().items()}, trainer.history


def work_of_a_rank(rank: int, given: list[Any], folder: str) -> Any:
    """What the tests below look at; one start of two processes serves them all."""
    stepped = [steps(rank, 2, configuration, 5) for configuration in given]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    patch = pytest.MonkeyPatch()
    runs.without_pictures(patch)
    # Only one of them gets the signal.
    action = (lambda _: os.kill(os.getpid(), signal.SIGINT)) if rank == 1 else (lambda _: None)
    stopping = runs.changed(given[1], checkpoint_every=100)
    with runs.before_step(2, action):
        stopped = run_text_to_3d(pathlib.Path(folder) / "stopped", stopping)
    diverging = pathlib.Path(folder) / "diverged"
    with runs.before_step(2, runs.diverge if rank == 1 else lambda _: None):
        try:
            run_text_to_3d(diverging, runs.changed(given[1], checkpoint_every=2))
            diverged = ""
        except FloatingPointError as error:
            diverged = str(error)
    return stepped, stopped, diverged


@needs_gloo
def test_two_processes_are_one_run(small_model: str, tmp_path: pathlib.Path) -> None:
    # Three of latents, two of the refinement, of which one process has no view.
    refinement = {"steps": 4, "size": 16, "views": 1, "learning_rate": 1e-3}
    given = [
        runs.configuration(small_model, "latent-nerf", views=2, steps=3, refinement=refinement),
        runs.configuration(small_model, "jacobian-nerf", views=3, steps=6),
        runs.dream_fields(views=2),
    ]
    (zero, *ended_zero), (one, *ended_one) = run_on_ranks(work_of_a_rank, given, str(tmp_path))
    for configuration, (state, history), (other_state, other_history) in zip(given, zero, one, strict=True):
        # They hold the same, bit for bit: each adds the same sum.
        runs.assert_same(state, other_state)
        assert torch.equal(history, other_history)
        alone, expected = steps(0, 1, configuration, 5)
        torch.testing.assert_close(history, expected, rtol=2e-3, atol=1e-5)
        torch.testing.assert_close(history[0], expected[0], rtol=1e-5, atol=1e-6)
        start = runs.trainer(configuration).scene
        parameters, moved = {name for name, _ in start.named_parameters()}, 0
        for name, x in alone.items():
            if name not in parameters:
                torch.testing.assert_close(state[name], x, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
                continue
            # Of what has moved, the difference is rounding; Adam divides small numbers by small numbers.
            change = float((x - start.state_dict()[name]).norm())
            assert float((state[name] - x).norm()) <= 2e-3 * change + 1e-6, name
            moved += change > 0
        assert moved >= 2
    for stopped, diverged in (ended_zero, ended_one):
        assert stopped == 130
        assert "diverged before step 4: " in diverged
    assert checkpoints.steps(tmp_path / "stopped") == [3]
    assert checkpoints.steps(tmp_path / "diverged") == [2]


def test_fewer_views_than_processes(monkeypatch: pytest.MonkeyPatch, small_model: str) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "4")
    given = runs.configuration(small_model, views=3)
    with (
        pytest.raises(UsageError, match=r"--views: expected at least 4, .* got 3"),
        ranks(APPLICATION.shares(given), given.device),
    ):
        pytest.fail("it began")
