"""The counter-based random numbers: SplitMix64, by an independent implementation and by statistics."""

from __future__ import annotations

import pytest
import torch

from ldp_fast.reference._random import random_bits, random_uniform

MASK = 2**64 - 1


def splitmix64(seed: int, counter: int) -> int:
    """As published, in Python's whole numbers."""
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 123456789])
def test_agrees_with_whole_numbers(seed: int) -> None:
    counters = [0, 1, 2, 1000, 2**40, 2**40 + 17, 2**62]
    bits = random_bits(torch.tensor([seed]), torch.tensor(counters))
    assert [x & MASK for x in bits.tolist()] == [splitmix64(seed, c) for c in counters]
    uniform = random_uniform(torch.tensor([seed]), torch.tensor(counters))
    assert uniform.tolist() == [(splitmix64(seed, c) >> 40) / 2**24 for c in counters]


def test_a_published_number() -> None:
    """The first output of SplitMix64 for seed 1234567, from its reference implementation's test vector."""
    assert random_bits(torch.tensor([1234567]), torch.tensor([0])).item() == 6457827717110365317


@pytest.mark.parametrize("seed", [0, 1, 42])
def test_statistics(seed: int) -> None:
    """Mean, variance, neighbours, and the same counter under the next seed; bounds are five standard errors."""
    n = 1 << 18
    x = random_uniform(torch.tensor([seed]), torch.arange(n)).double()
    y = random_uniform(torch.tensor([seed + 1]), torch.arange(n)).double()
    assert 0 <= x.min() and x.max() < 1
    assert abs(x.mean() - 0.5) < 5 * (1 / 12 / n) ** 0.5
    assert abs(x.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    for other in (x.roll(1), x.roll(16), y, y.roll(1)):
        assert abs(torch.corrcoef(torch.stack([x, other]))[0, 1]) < 5 / n**0.5
    expected = n / 64
    chi = ((torch.histc(x, 64, 0, 1) - expected) ** 2 / expected).sum()
    assert abs(chi - 63) < 5 * (2 * 63) ** 0.5


def test_neighbouring_seeds_share_no_numbers() -> None:
    drawn = random_bits(torch.arange(64)[:, None], torch.arange(1024)).flatten()
    assert len(drawn.unique()) == len(drawn)
