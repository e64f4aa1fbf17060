"""A host's training step under `torch.compile`: the same numbers, few graphs, and quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, _dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from ldp_fast.integrations._core import HostLosses, predict_residual

from ..support.models import tiny_vae

V, NOISE, R = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
ALPHA, WEIGHT = torch.tensor([0.9, 0.6]), torch.tensor([0.2, 0.7])


@pytest.fixture(autouse=True)
def ignored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No compiled code of another test, and no exception that Python only reports."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    _dynamo.reset()
    yield
    _dynamo.reset()
    assert not seen, f"{len(seen)} exceptions were ignored, the first: {seen[0]}"


def made(
    function: Callable[[Any], Tensor], inputs: list[Any], *, fullgraph: bool, backend: str = "aot_eager", warm: int = 3
) -> list[int]:
    """How many graphs there were after `warm` steps, and after all; results are the uncompiled function's."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, backend=counter, fullgraph=fullgraph)
    counts = []
    for each in inputs:
        torch.testing.assert_close(compiled(each), function(each), rtol=1e-6, atol=1e-7)
        counts.append(counter.frame_count)
    return [counts[warm - 1], counts[-1]]


def host(**settings: Any) -> HostLosses:
    return HostLosses(tiny_vae(), **{"lambda_kl": 0.1, "lambda_lsd": 0.5, **settings})


def with_settings(losses: HostLosses, number: float) -> HostLosses:
    """The same, as a schedule of λ's changes it from step to step."""
    losses.lambda_kl, losses.lambda_lsd = 0.1 * number, number
    if losses.lambda_fm:
        losses.lambda_fm = 0.01 * number
    return losses


NUMBERS = [0.31 + 0.17 * index for index in range(10)]


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradient_mode_is_one_full_graph_for_all_numbers(clip: float | None) -> None:
    losses = host(clip=clip)

    def step(number: float) -> Tensor:
        r = predict_residual(V * number, NOISE, number, 0.6, lambda z: z * 0.5, guidance_scale=number)
        return losses.gradient(V * number, r, number, number)[0]

    assert made(step, NUMBERS, fullgraph=True)[-1] <= 2


def test_lambdas_and_the_bound_may_change_from_step_to_step() -> None:
    losses, leaf = host(clip=0.5), V.clone().requires_grad_()
    counter = CompileCounterWithBackend("aot_eager")
    step = torch.compile(lambda w: losses(leaf, R, ALPHA, w).loss, backend=counter, fullgraph=True)
    for number in NUMBERS:
        with_settings(losses, number).clip = number
        (found,) = torch.autograd.grad(step(WEIGHT), leaf)
        (wanted,) = torch.autograd.grad(losses(leaf, R, ALPHA, WEIGHT).loss, leaf)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
    assert counter.frame_count <= 2


def test_feature_matching_stays_outside_of_the_graphs_and_quiet() -> None:
    losses = host(lambda_fm=0.01)
    losses.gradient(V, R, ALPHA, WEIGHT)
    warm, end = made(
        lambda number: losses.gradient(V, R, ALPHA, number)[0], NUMBERS[:6], fullgraph=False, backend="eager"
    )
    assert warm == end <= 6


def test_a_full_graph_with_feature_matching_says_what_is_in_its_way() -> None:
    losses = host(lambda_fm=0.01)
    losses.gradient(V, R, ALPHA, WEIGHT)
    step = torch.compile(lambda v: losses.gradient(v, R, ALPHA, WEIGHT)[0], backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"FrozenDecoder\.feature_matching"):
        step(V)
