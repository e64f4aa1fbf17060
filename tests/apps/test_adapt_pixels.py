"""A gradient on its way back to a generator's pixels: bounded by a quantile, and through a resize."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.apps.adapt.guides import pictures as pixels
from ldp_fast.apps.adapt.guides.pictures import clipped, through

from .adapt_guides import DRAWS, close, guide_of, pictures


def test_a_clip_bounds_the_outliers_of_each_sample_alone() -> None:
    gradient = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e4
    found = clipped(gradient, 0.95)
    for was, now in zip(gradient.flatten(1), found.flatten(1), strict=True):
        bound = torch.quantile(was.abs(), 0.95)
        kept = was.abs() <= bound
        assert int((~kept).sum()) == 60  # 5 % of 1200
        assert torch.equal(now[kept], was[kept])
        assert torch.equal(now[~kept], bound * was[~kept].sign())
    assert clipped(gradient, None) is gradient


def test_the_clip_is_of_the_pixels_that_the_encoder_sees() -> None:
    x = pictures(size=64)
    guide, free = guide_of(guidance="lsd", pixel_clip=0.8), guide_of(guidance="lsd")
    seen = F.interpolate(x, (128, 128), mode="bilinear").clamp(-1, 1)
    there = clipped(free.gradient(seen, seen, DRAWS, 0.0)[0], 0.8)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.interpolate(leaf, (128, 128), mode="bilinear"), leaf, there)
    assert close(guide.gradient(x, x, DRAWS, 0.0)[0], wanted)
    assert not close(free.gradient(x, x, DRAWS, 0.0)[0], wanted, 0.1)


@pytest.mark.parametrize("size", [(6, 10), (3, 4)])
def test_a_gradient_goes_back_through_a_resize(size: tuple[int, int]) -> None:
    """By differences: L = Σ weight · shown is linear in the pictures."""
    x = 0.3 * torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    weight = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    found = through(x, size, lambda seen: weight)

    def loss(x: Tensor) -> float:
        there = F.interpolate(x.double(), size, mode="bilinear", antialias=size[0] < 5)
        return float((weight.double() * there).sum())

    for place in [(0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 4, 6)]:
        moved = x.double().clone()
        moved[place] += 1
        assert float(found[place]) == pytest.approx(loss(moved) - loss(x), abs=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 0.9999, 1.0])
def test_a_quantile_of_any_number_of_elements_is_torchs(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    row = torch.rand(1001, generator=torch.Generator().manual_seed(0))
    wanted = torch.quantile(row, share)
    monkeypatch.setattr(pixels, "MOST", 1000)
    torch.testing.assert_close(pixels.quantile(row, share), wanted, rtol=1e-5, atol=1e-7)
    row[3] = torch.nan
    assert bool(torch.quantile(row, share).isnan()) and bool(pixels.quantile(row, share).isnan())


def test_more_elements_than_torch_sorts_are_clipped() -> None:
    gradient = torch.zeros(1, pixels.MOST + 4)
    gradient[0, :4] = torch.tensor([-4.0, 3.0, 2.0, 1.0])
    found = clipped(gradient, 1 - 2.5 / (gradient.shape[1] - 1))
    assert found[0, :5].tolist() == pytest.approx([-1.5, 1.5, 1.5, 1.0, 0.0], abs=1e-6)
