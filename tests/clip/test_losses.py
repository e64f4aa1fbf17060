"""The formulas against loops over numbers, and their gradients where the formulas have none."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ldp_fast.clip import losses
from ldp_fast.clip.augment import step_generator

vectors = arrays(float, 4, elements=st.floats(-3, 3)).map(torch.from_numpy).filter(lambda x: float(x.norm()) > 1e-3)


def angle(x: torch.Tensor, y: torch.Tensor) -> float:
    dot, lengths = sum(float(a * b) for a, b in zip(x, y, strict=True)), math.hypot(*x) * math.hypot(*y)
    return math.acos(max(-1.0, min(1.0, dot / lengths)))


@given(vectors, vectors)
def test_the_distances_are_those_of_the_angle(x: torch.Tensor, y: torch.Tensor) -> None:
    theta = angle(x, y)
    assert float(losses.cosine(x, y)) == pytest.approx(math.cos(theta), abs=1e-9)
    assert float(losses.spherical_distance(x, y)) == pytest.approx(theta**2 / 2, abs=1e-6)
    half = math.hypot(*(x / x.norm() - y / y.norm()).tolist()) / 2
    assert float(losses.spherical_distance(x, y)) == pytest.approx(2 * math.asin(min(half, 1)) ** 2, abs=1e-6)
    assert float(losses.directional_distance(x, y, 1e-8)) == pytest.approx(1 - math.cos(theta), abs=1e-9)


def test_the_gradient_of_the_spherical_distance_is_finite_at_both_ends() -> None:
    x = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    for y in (x, -x):
        leaf = x.clone().requires_grad_()
        losses.spherical_distance(leaf, y).backward()
        assert leaf.grad is not None and leaf.grad.isfinite().all()
    apart = torch.tensor([0.3, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: losses.spherical_distance(z, x), apart)


def test_an_edit_of_zero_is_pulled_towards_the_text() -> None:
    direction, edit = torch.tensor([3.0, 4.0]), torch.zeros(2, requires_grad=True)
    loss = losses.directional_distance(edit, direction, 1e-3)
    loss.backward()
    assert float(loss.detach()) == 1
    assert edit.grad is not None and torch.allclose(edit.grad, torch.tensor([-600.0, -800.0]))
    # Shorter than the floor, the cosine fades; from it on, it is the cosine.
    for length, share in ((0.5e-3, 0.5), (1e-3, 1.0), (0.2, 1.0)):
        found = losses.directional_distance(torch.tensor([length, 0.0]), direction, 1e-3)
        assert float(found) == pytest.approx(1 - share * 0.6, abs=1e-6)


def test_arithmetic_is_float32_whatever_comes() -> None:
    x, y = torch.randn(2, 5).half(), torch.randn(2, 5).half()
    for found in (losses.cosine(x, y), losses.spherical_distance(x, y), losses.directional_distance(x, y, 1e-3)):
        assert found.dtype == torch.float32
    assert losses.structure_distance(torch.randn(1, 3, 5).half(), torch.randn(1, 3, 5).half()).dtype == torch.float32
    small = (torch.tensor([1.0, 1.0]).half() + torch.tensor([0.0, 0.001]).half()) - torch.tensor([1.0, 1.0]).half()
    assert float(losses.directional_distance(small, torch.tensor([0.0, 1.0]).half(), 1e-8)) == pytest.approx(
        0, abs=1e-6
    )


def test_self_similarity_is_the_cosine_of_every_pair() -> None:
    tokens, other = (torch.randn(2, 4, 3, dtype=torch.float64) for _ in range(2))
    found = losses.self_similarity(tokens)
    total = 0.0
    for i in range(4):
        for j in range(4):
            assert float(found[1, i, j]) == pytest.approx(math.cos(angle(tokens[1, i], tokens[1, j])), abs=1e-9)
            total += (math.cos(angle(tokens[1, i], tokens[1, j])) - math.cos(angle(other[1, i], other[1, j]))) ** 2
    assert float(losses.structure_distance(tokens, other)[1]) == pytest.approx(total / 16, abs=1e-9)
    assert losses.self_similarity(torch.zeros(1, 2, 3)).abs().sum() == 0


def test_sparsity_is_its_two_penalties() -> None:
    opacity = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    for image, found in zip(opacity, losses.sparsity(opacity), strict=True):
        values = image.flatten().tolist()
        l0 = sum(2 / (1 + math.exp(-5 * x)) - 1 for x in values) / 6
        assert float(found) == pytest.approx(0.01 * sum(values) / 6 + 0.01 * l0, abs=1e-12)


def test_a_subset_is_drawn_with_replacement_and_of_any_size() -> None:
    drawn = [losses.subset_weights(3, step_generator("cpu", i)) for i in range(600)]
    assert all(float(x.sum()) == pytest.approx(1) for x in drawn)
    kinds = {tuple(round(float(w), 4) for w in x) for x in drawn}
    third, two = 0.3333, 0.6667
    assert kinds == {
        (1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (third, third, third),
        (two, third, 0), (two, 0, third), (0, two, third), (third, two, 0), (third, 0, two), (0, third, two),
    }  # fmt: skip
    assert torch.allclose(torch.stack(drawn).mean(0), torch.full((3,), 1 / 3), atol=0.04)
    assert torch.equal(losses.subset_weights(1, step_generator("cpu", 0)), torch.ones(1))
