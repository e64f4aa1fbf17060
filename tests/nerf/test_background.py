"""Backgrounds: shapes, gradients, refusals."""

from __future__ import annotations

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


def test_refusals() -> None:
    with pytest.raises(ValueError, match="values: expected C finite numbers"):
        ConstantBackground([float("nan")])
    with pytest.raises(ValueError, match="channels: expected a whole number of at least 1, got 0"):
        LearnedBackground(0)
    with pytest.raises(ValueError, match="hidden: expected a whole number of at least 1, got -1"):
        DirectionalBackground(4, hidden=-1)
