"""`--profile`: parts are counted once, add up, and leave nothing on the networks."""

from __future__ import annotations

import pathlib
import re
import time
from types import SimpleNamespace

import pytest
import torch

from ldp_fast.apps.text_to_3d.run import LABELS
from ldp_fast.runs import profile as module
from ldp_fast.runs.profile import NETWORKS, Profile

from . import text_to_3d_runs as runs


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_inner_parts_are_taken_out_of_outer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)

    class Unet(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock.now += 4
            return x

    settings = SimpleNamespace(lambda_fm=0.0)
    prior = SimpleNamespace(device=torch.device("cpu"), unet=Unet(), decoder=None, settings=settings)
    profile = Profile(LABELS, torch.device("cpu"))
    profile.time_prior(prior)
    for _ in range(2):
        with profile.part("prior"):
            clock.now += 1
            prior.unet(torch.zeros(1))
            with profile.part("decoder"):
                clock.now += 2
                with profile.part("encoder"):
                    clock.now += 8
            clock.now += 16
        with pytest.raises(RuntimeError), profile.part("backward"):
            clock.now += 32
            raise RuntimeError
    spent = {name: seconds for name, seconds in profile.seconds.items() if seconds}
    assert spent == {"unet": 8, "decoder": 4, "encoder": 16, "prior": 34, "backward": 64}
    assert sum(spent.values()) == clock.now
    profile.steps = 2
    rows = profile.table(clock.now + 10).splitlines()
    assert rows[-1].split() == ["of", "which", "frozen", "networks", "14000.00", "20.6%"]
    assert rows[-2].split()[:3] == ["a", "step", "68000.00"]
    assert re.fullmatch(r"everything else +5000\.00 +7\.4%", rows[-3])
    assert len(rows) == 1 + len(spent) + 3


def test_a_real_run(small_model: str) -> None:
    refinement = {"steps": 1, "size": 16, "views": 1, "learning_rate": 1e-3}
    trainer = runs.trainer(runs.configuration(small_model, steps=2, refinement=refinement))
    prior, fit, fitting = trainer.prior, trainer.scene.begin_refinement, []

    def timed_fit() -> None:
        since = time.perf_counter()
        fit()
        fitting.append(time.perf_counter() - since)

    # Done once, and no part of a step: without it the sum below would hide parts that are counted twice.
    trainer.scene.begin_refinement = timed_fit  # type: ignore[method-assign]
    profile = Profile(LABELS, torch.device("cpu"))
    profile.time_prior(prior)
    began = time.perf_counter()
    for _ in range(3):
        trainer.advance(profile.part)
    total = time.perf_counter() - began - sum(fitting)
    assert len(fitting) == 1
    assert set(NETWORKS) < set(LABELS)
    assert all((seconds > 0) == (name != "clip") for name, seconds in profile.seconds.items()), profile.seconds
    assert sum(profile.seconds.values()) <= total
    profile.close()
    assert not prior.unet._forward_hooks and not prior.unet._forward_pre_hooks
    assert "feature_matching" not in vars(prior.decoder)
    kept = dict(profile.seconds)
    trainer.prior.gradient(torch.zeros(1, 4, 8, 8), trainer.text.select(torch.tensor([0])), timesteps=100)
    assert profile.seconds == kept


@pytest.mark.usefixtures("only_steps")
def test_the_command_prints_it(small_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    given = runs.configuration(small_model, "jacobian-nerf", steps=2, settings={"lambda_fm": 0.0})
    assert runs.command("--resume", runs.prepared(tmp_path / "run", given), "--profile") == 0
    printed = capsys.readouterr().out
    for name in ("unet", "render", "backward", "prior", "regularisers", "optimiser"):
        assert LABELS[name] in printed
    assert LABELS["decoder"] not in printed and "everything else" in printed
    shares = [float(share) for share in re.findall(r"([\d.]+)%", printed)]
    assert sum(shares[:-2]) == pytest.approx(100.0, abs=0.5) and shares[-2] == 100.0
