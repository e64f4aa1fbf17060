"""FID and KID against scipy's matrix square root, torchmetrics' classes and loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldp_fast.errors import UsageError
from ldp_fast.metrics.frechet import few, fid, kid


def made(count: int, dimension: int, seed: int, mean: float = 0.0) -> torch.Tensor:
    """Features whose numbers depend on each other, float64."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) @ mixing + mean


def by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    """The formula as it is printed; both covariances have to be regular."""
    one, two = (np.atleast_2d(np.cov(x.numpy(), rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(one @ two)
    return float((a.mean(0) - b.mean(0)).square().sum()) + float(np.trace(one + two - 2 * np.real(root)))


def by_loops(a: torch.Tensor, b: torch.Tensor) -> float:
    """The unbiased estimate of KID as sums over pairs."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    inside = [[kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j] for s in (a, b)]
    return sum(map(np.mean, inside)) - 2 * np.mean([kernel(x, y) for x in a for y in b])


class Pictures(torch.nn.Module):
    """Features that are the pictures themselves, for torchmetrics' classes."""

    num_features = 12

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.flatten(1)


def test_fid_and_kid_are_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = made(40, 12, 0), made(40, 12, 1, mean=0.5)
    for metric, ours in (
        (FrechetInceptionDistance(feature=Pictures(), input_img_size=(3, 2, 2), normalize=True), fid(a, b)),
        (KernelInceptionDistance(feature=Pictures(), subsets=1, subset_size=40, normalize=True), kid(a, b).value),
    ):
        metric.set_dtype(torch.float64)
        for features, real in ((a, True), (b, False)):
            metric.update(features.view(-1, 3, 2, 2), real=real)
        theirs = metric.compute()
        assert ours == pytest.approx(float(theirs[0] if isinstance(theirs, tuple) else theirs), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 6), st.integers(0, 99))
def test_fid_is_the_printed_formula(count: int, other: int, dimension: int, seed: int) -> None:
    a, b = made(count + dimension, dimension, seed), made(other + dimension, dimension, seed + 1, mean=1.0)
    assert fid(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 20), st.integers(1, 4), st.integers(0, 99))
@example(2, 2, 20, 1, 0)
def test_fid_is_a_distance_whatever_the_rank(count: int, other: int, dimension: int, copies: int, seed: int) -> None:
    """Fewer features than dimensions, duplicates, sets that are all one picture."""
    a, b = made(count, dimension, seed), made(other, dimension, seed + 1).repeat(copies, 1)
    scale = float(a.square().sum() + b.square().sum())
    assert 0 <= fid(a, a) < 1e-20 * scale
    assert fid(a, b) == pytest.approx(fid(b, a), rel=1e-9) and fid(a, b) > 0
    same = a[:1].repeat(3, 1)
    assert fid(same, same + 2) == pytest.approx(4 * dimension, rel=1e-9)
    assert fid(a, a + 2) == pytest.approx(4 * dimension, rel=1e-9)
    assert math.isfinite(fid(a * 1e-6, b * 1e6))


def test_fid_of_singular_covariances_is_known() -> None:
    """Σ₁ and Σ₂ of rank one along unit vectors u and v: tr(Σ₁Σ₂)^½ = σ₁σ₂|u·v|."""
    u, v = torch.eye(30, dtype=torch.float64)[:2]
    v = (u + v) / math.sqrt(2)
    points = torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None]
    assert fid(points * u, 3 * points * v) == pytest.approx(2 + 18 - 2 * math.sqrt(2 * 18 / 2), rel=1e-12)


def test_near_zero_no_digits_are_lost() -> None:
    a = made(50, 8, 0)
    assert fid(a, a * (1 + 1e-9)) == pytest.approx(1e-18 * float(a.mean(0).square().sum() + a.var(0).sum()), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 6), st.randoms(use_true_random=False))
def test_both_are_independent_of_order_to_the_bit(count: int, dimension: int, random) -> None:
    a, b = made(count, dimension, 0), made(count + 3, dimension, 1)
    order = list(range(count))
    random.shuffle(order)
    size = max(2, count // 2)
    assert fid(a, b) == fid(a[order], b.flip(0))
    assert kid(a, b, subset_size=size, subsets=3) == kid(a[order], b.flip(0), subset_size=size, subsets=3)


def test_order_holds_for_signed_zeros_and_float32() -> None:
    a = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [2.0, -0.0]])
    assert fid(a, a.flip(0) + 1) == fid(a.flip(0), a + 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 6), st.integers(0, 99))
def test_kid_is_a_sum_over_pairs(count: int, other: int, dimension: int, seed: int) -> None:
    size = min(count, other)
    a, b = made(size, dimension, seed), made(size, dimension, seed + 1)
    found = kid(a, b)
    assert found.value == pytest.approx(by_loops(a, b), rel=1e-9, abs=1e-9)
    assert (found.std, found.subsets, found.subset_size) == (0.0, 1, size)


def test_kid_is_unbiased_and_seeded() -> None:
    everything = made(400 * 8, 3, 0).view(400, 2, 4, 3)
    values = np.array([kid(x, y).value for x, y in everything])
    assert abs(values.mean()) < 4 * values.std() / 20, "sets of one distribution: zero in the mean"
    assert (values < 0).mean() > 0.2
    a, b = made(60, 3, 0), made(80, 3, 1)
    once, again, other = (kid(a, b, subsets=5, subset_size=20, seed=seed) for seed in (0, 0, 1))
    assert once == again != other and once.std > 0
    assert kid(a, b).subset_size == 60


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(3, 4), "expected at least 2 pictures in the first set, got 1"),
        (torch.zeros(3, 4), torch.zeros(0, 4), "expected at least 2 pictures in the second set, got 0"),
        (torch.zeros(3, 4), torch.zeros(3, 5), "features of one size, got 4 and 5"),
        (torch.zeros(3), torch.zeros(3, 5), r"expected features \[N, D\] as the first set"),
        (torch.zeros(3, 4), torch.full((3, 4), math.nan), "second set has NaN or infinity"),
    ],
)
def test_what_cannot_be_compared_is_refused(a: torch.Tensor, b: torch.Tensor, message: str) -> None:
    for metric in (fid, kid):
        with pytest.raises(UsageError, match=message):
            metric(a, b)


def test_kid_refuses_subsets_that_cannot_be_drawn() -> None:
    a = made(10, 3, 0)
    with pytest.raises(UsageError, match="subset_size: expected 2 to 10, the pictures of the smaller set; got 11"):
        kid(a, a, subset_size=11)
    with pytest.raises(UsageError, match="subsets: expected at least 1, got 0"):
        kid(a, a, subsets=0)


def test_few_pictures_are_warned_of() -> None:
    assert few("fid", 2048, 2048) == ""
    assert few("fid", 50, 2048).startswith("fid: 50 pictures are fewer than the 2048 numbers of a feature")
