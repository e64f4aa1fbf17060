"""The yardstick itself: an error of exactly `factor` times the textbook's passes in every direction, more fails."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from .tolerances import FLOOR_ULPS, GRADIENT, OUTPUT, assert_close, measure

ULP = torch.finfo(torch.float32).eps
FLOOR = FLOOR_ULPS * ULP
# Float32 holds the truth and these errors exactly, except for less than the floor.
TRUTH = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
ALONG, ACROSS = TRUTH, torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
DIRECTIONS = {"along": ALONG, "shrinking": -ALONG, "across": ACROSS, "askew": (ACROSS - ALONG) / math.sqrt(2.0)}
SIZE = 2.0**-6  # of the textbook's error, against the truth


def check(ours: Tensor, theirs: Tensor, factor: float = OUTPUT) -> None:
    """Judges a float32 result with one error by a textbook's with another."""
    assert_close((TRUTH + ours).float(), (TRUTH + theirs).float(), TRUTH, factor=factor, what="it")


@pytest.mark.parametrize("factor", [OUTPUT, GRADIENT])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [2.0**-12, SIZE, 0.25])
def test_exactly_factor_times_the_error_passes_and_more_does_not(direction: str, factor: float, size: float) -> None:
    error = size * DIRECTIONS[direction]
    check(factor * error, error, factor)
    with pytest.raises(AssertionError, match="it: largest error"):
        check(1.05 * factor * error, error, factor)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_floor_is_what_a_textbook_that_is_exact_by_luck_leaves(direction: str) -> None:
    error = DIRECTIONS[direction] / DIRECTIONS[direction].abs().max()
    check((FLOOR_ULPS - 1) * ULP * error, torch.zeros_like(TRUTH))
    with pytest.raises(AssertionError):
        check((FLOOR_ULPS + 2) * ULP * error, torch.zeros_like(TRUTH))


def test_an_error_across_the_truth_is_not_excused_by_one_along_it() -> None:
    """Largest difference, norm and bias are the same; only the angle tells them apart, however small it is."""
    for size in (SIZE, 100 * FLOOR):
        check(size * ALONG, size * ACROSS)
        with pytest.raises(AssertionError, match="it: angle"):
            check(size * ACROSS, size * ALONG)


def test_one_minus_cosine_may_grow_by_the_square_of_the_factor() -> None:
    def one_minus_cosine(error: Tensor) -> float:
        return 1.0 - float(torch.nn.functional.cosine_similarity(TRUTH + error, TRUTH, dim=0))

    error = SIZE * ACROSS
    assert one_minus_cosine(OUTPUT * error) == pytest.approx(OUTPUT**2 * one_minus_cosine(error), rel=1e-3)
    assert one_minus_cosine(error) == pytest.approx(measure(TRUTH + error, TRUTH).across ** 2 / 2, rel=1e-3)


def test_what_is_measured() -> None:
    error = measure(2.0 * TRUTH + 0.5 * ACROSS, TRUTH)
    assert error.largest == 1.5 and error.l2 == pytest.approx(math.sqrt(1.25)) and error.bias == 0.0
    assert error.across == pytest.approx(0.5)
    assert measure(TRUTH + 0.25, TRUTH).bias == 0.25
    for turned in (-TRUTH, torch.zeros_like(TRUTH)):
        assert measure(turned, TRUTH).across == 0.0 and measure(turned, TRUTH).l2 >= 1.0


def test_nothing_and_zero() -> None:
    empty, zero = torch.zeros(0), torch.zeros(4)
    assert_close(empty, empty, empty.double())
    assert_close(zero, zero, zero.double())
    with pytest.raises(AssertionError):
        assert_close(zero + ULP, zero, zero.double())


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_fails(wrong: float) -> None:
    with pytest.raises(AssertionError, match="not finite where the truth is"):
        check(torch.tensor([0.0, wrong, 0.0, 0.0]), SIZE * ALONG)


def test_terms_that_cancel_raise_the_floor() -> None:
    error = 8 * ULP * ACROSS
    with pytest.raises(AssertionError):
        check(error, torch.zeros_like(TRUTH))
    exact = TRUTH.float()
    assert_close((TRUTH + error).float(), exact, TRUTH, condition=3.0)
