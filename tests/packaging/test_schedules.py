"""The one cosine has the bits of the three formulas that it stands for, so that runs go on as they began."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldp_fast.schedules import cosine_decay
from ldp_fast.zoo import loop

FINALS = (0.0, 0.01, 0.05, 0.1, 0.3, 1 / 3, 0.7, 1.0)
LENGTHS = (1, 2, 3, 7, 20, 100, 999, 5000)
RATE = 0.0123


def last_third(progress: float, final: float) -> float:
    """Of latents."""
    if progress < 2 / 3:
        return RATE
    fall = 0.5 * (1 + np.cos(np.pi * (progress - 2 / 3) * 3))
    return RATE * float(final + (1 - final) * fall)


def second_half(progress: float, final: float) -> float:
    """Of text-to-3D."""
    if progress <= 0.5:
        return RATE
    return RATE * float(final + (1 - final) * 0.5 * (1 + np.cos(np.pi * (2 * progress - 1))))


@pytest.mark.parametrize("formula, parts", [(last_third, 3), (second_half, 2)])
@pytest.mark.parametrize("final", FINALS)
def test_it_is_bit_equal_to_the_applications_formulas(formula, parts: int, final: float) -> None:
    for steps in LENGTHS:
        for step in range(steps + 1):
            assert RATE * cosine_decay(step / steps, final, parts) == formula(step / steps, final)


def test_it_is_what_the_embedded_models_were_trained_with() -> None:
    for steps in (101, 150, 3000):
        for step in range(100, steps):
            progress = (step - 100) / (steps - 100)
            wanted = RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
            assert loop.rate_at(step, steps, RATE) == wanted
    assert [loop.rate_at(step, 3000, RATE) for step in (0, 49, 99)] == [RATE / 100, RATE * 50 / 100, RATE]


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_it_stays_then_falls_to_the_end(parts: int) -> None:
    values = [cosine_decay(step / 240, 0.25, parts) for step in range(241)]
    start = 240 * (parts - 1) // parts
    assert set(values[: start + 1]) == {1.0} and values[-1] == 0.25
    assert all(before > after for before, after in zip(values[start:], values[start + 1 :], strict=False))
    assert values[(240 + start) // 2] == pytest.approx(0.625)
