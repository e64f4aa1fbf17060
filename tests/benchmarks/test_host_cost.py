"""The benchmark of the host's time: both sides compute the same, and a launch without a driver is a launch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import bench_host_cost, goals
from ldp_fast import losses

from ..support import samples
from ..support.fake_driver import launching_into_nothing, missing
from .made_up import row


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


@pytest.mark.parametrize("name, direction", bench_host_cost.KINDS)
def test_both_sides_compute_the_same(name: str, direction: str) -> None:
    theirs, ours = (flat(bench_host_cost.prepare(name, side, direction, "cpu")()) for side in ("naive", "ours"))
    assert len(theirs) == len(ours)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4), name


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_launch_into_nothing_goes_through_triton_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import driver

    launched: list[int] = []
    monkeypatch.setattr("tests.support.fake_driver._Launcher.__call__", lambda self, *args: launched.append(len(args)))
    before = dict(vars(driver))
    inputs = samples.perturb.inputs()
    with launching_into_nothing():
        assert losses.perturb(**inputs).shape == (2, 4, 8, 8)
    assert len(launched) == 1 and vars(driver) == before
    losses.perturb(**inputs)
    assert len(launched) == 1


def test_the_goal_is_about_the_worst_function() -> None:
    rows = []
    for function, ours in (("perturb", 1.2), ("latent_kl_loss, forward and backward", 1.4), ("feature_matching", 5.0)):
        group = f"host cost, {function}, cpu"
        rows += [row("host_cost", group, "naive", 1.0), row("host_cost", group, "ours", ours)]
    assert goals.host_cost("cpu", feature_matching=False)(rows) == pytest.approx(1.4)
    assert goals.host_cost("cpu", feature_matching=True)(rows) == pytest.approx(5.0)
    assert goals.host_cost("meta", feature_matching=False)(rows) is None
