"""Backgrounds: shapes, gradients, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ldp_fast.nerf import Cameras, ConstantBackground, DirectionalBackground, LearnedBackground


@pytest.mark.parametrize(
    "background",
    [ConstantBackground([1.0, 2, 3, 4]), LearnedBackground(4), LearnedBackground(4, 8, 1.0), DirectionalBackground(4)],
    ids=lambda b: type(b).__name__,
)
def test_one_value_per_ray(background: torch.nn.Module) -> None:
    _, directions = Cameras.orbit([0.0, 90.0]).rays(3, 5)
    values = background(directions, 3, 5)
    assert values.shape == (30, 4) and values.isfinite().all()
    if not isinstance(background, DirectionalBackground):
        assert torch.equal(values[:15], values[15:]), "the same behind every view"
    copy = type(background).__new__(type(background))
    copy.__setstate__(background.__getstate__())
    assert torch.equal(copy(directions, 3, 5), values)


def test_the_directional_one_sees_directions_and_learns() -> None:
    background = DirectionalBackground(4)
    _, directions = Cameras.orbit([0.0, 90.0]).rays(4, 4)
    values = background(directions, 4, 4)
    assert not torch.allclose(values[:16], values[16:])
    values.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in background.parameters())


def test_a_learned_picture_is_resized_to_the_view() -> None:
    background = LearnedBackground(1, 2)
    with torch.no_grad():
        background.values.copy_(torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None])
    assert torch.equal(background(torch.zeros(4, 3), 2, 2).flatten(), torch.tensor([0.0, 1.0, 2.0, 3.0]))
    assert background(torch.zeros(64, 3), 8, 8).mean() == 1.5


def test_a_constant_of_every_kind_that_is_the_callers_no_more() -> None:
    given = torch.tensor([1.0, 2.0])
    for values in ([1, 2], np.array([1.0, 2.0]), given, given.clone().requires_grad_()):
        assert torch.equal(ConstantBackground(values).values, torch.tensor([1.0, 2.0]))
    background = ConstantBackground(given)
    given.zero_()
    assert background.values.tolist() == [1.0, 2.0] and not background.values.requires_grad


@pytest.mark.parametrize("values", ["abc", None, ["a"], [[1.0], [1.0, 2.0]]])
def test_a_constant_that_is_no_numbers(values: object) -> None:
    with pytest.raises(ValueError, match="ConstantBackground: values: expected C finite numbers, got"):
        ConstantBackground(values)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [math.nan, math.inf, -1.0, "x", None])
def test_a_learned_picture_of_no_scale(scale: object) -> None:
    with pytest.raises(ValueError, match="LearnedBackground: scale: expected a finite number of at least 0, got"):
        LearnedBackground(scale=scale)  # type: ignore[arg-type]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="values: expected C finite numbers"):
        ConstantBackground([float("nan")])
    with pytest.raises(ValueError, match="channels: expected a whole number of at least 1, got 0"):
        LearnedBackground(0)
    with pytest.raises(ValueError, match="hidden: expected a whole number of at least 1, got -1"):
        DirectionalBackground(4, hidden=-1)
