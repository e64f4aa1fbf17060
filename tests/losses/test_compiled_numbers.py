"""Python numbers in a graph of `torch.compile`: inputs, not constants; and values that are not numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, _dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from ldp_fast import losses
from ldp_fast.guidance.outputs import ScaleGradient

NUMBERS = [0.37 + 1.1 * index for index in range(10)]
V, NOISE, R = (torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
OUTPUT = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(3))
LEAF = V.double().requires_grad_()
WEIGHTS = torch.tensor([[-0.5, -1.0], [0.0, -2.0]])


def combined(**changed: Any) -> Tensor:
    arguments: dict[str, Any] = {"alpha": 0.5, "weight": 1.5, "lambda_fm": 0.1, "lambda_kl": 0.2, "lambda_lsd": 1.0}
    return losses.combine_gradients(V, R, NOISE, OUTPUT[:2], **(arguments | changed))[0]


def residual(**changed: Any) -> Tensor:
    arguments: dict[str, Any] = {"guidance_scale": 7.5, "alpha": 0.8, "sigma": 0.6}
    return losses.guided_residual(
        OUTPUT[:4], NOISE, prediction="v_prediction", noisy_latents=V, **(arguments | changed)
    )


CASES: dict[str, Callable[[Any], Tensor]] = {
    "perturb alpha": lambda x: losses.perturb(V, NOISE, x, 0.5),
    "perturb sigma": lambda x: losses.perturb(V, NOISE, 0.5, x, copies=2, dtype=torch.float16),
    "guided_residual guidance_scale": lambda x: residual(guidance_scale=x),
    "guided_residual alpha": lambda x: residual(alpha=x),
    "guided_residual sigma": lambda x: residual(sigma=x),
    "perp_neg_residual": lambda x: losses.perp_neg_residual(OUTPUT, NOISE, WEIGHTS, guidance_scale=x),
    "residual_latents": lambda x: losses.residual_latents(LEAF, R.double(), x),
    "score_distillation_loss": lambda x: losses.score_distillation_loss(LEAF, R, x),
    **{
        f"combine_gradients {name}": lambda x, name=name: combined(**{name: x})
        for name in ("alpha", "weight", "lambda_fm", "lambda_kl", "lambda_lsd")
    },
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No compiled code of another test."""
    _dynamo.reset()
    yield
    _dynamo.reset()


def compilations(function: Callable[..., Tensor], inputs: list[tuple[Any, ...]], backend: str = "aot_eager") -> int:
    """Full graphs that were made, one after the other; each result is the uncompiled function's, bit for bit."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    results = [with_gradient(function(*each)) for each in inputs]
    assert not torch.equal(results[1], results[2]), "numbers that make no difference prove nothing"
    for each, expected in zip(inputs, results, strict=True):
        assert torch.equal(with_gradient(compiled(*each)), expected), each
    return counter.frame_count


def with_gradient(result: Tensor) -> Tensor:
    """All numbers of a result, and of its gradient on LEAF where it has one."""
    if not result.requires_grad:
        return result.flatten()
    (found,) = torch.autograd.grad(result.sum(), LEAF)
    return torch.cat([result.detach().flatten(), found.flatten()])


@pytest.mark.parametrize("name", CASES)
def test_ten_numbers_take_two_compilations(name: str) -> None:
    """The first number is a constant until another one comes."""
    assert compilations(CASES[name], [(x,) for x in NUMBERS]) <= 2


def step(a: float, s: float, w: float, fm: float, kl: float, lsd: float, g: float) -> Tensor:
    """What a host does, with every number changing: loss mode, and gradient mode as a factor."""
    z = losses.perturb(LEAF, NOISE, a, s, copies=2)
    r = losses.guided_residual(OUTPUT[:4] + z, NOISE, guidance_scale=g)
    updated = losses.residual_latents(LEAF, r, a)
    loss = lsd * losses.score_distillation_loss(LEAF, r, w) + fm * updated.square().mean()
    loss = loss + ScaleGradient.apply(kl * losses.latent_kl_loss(LEAF), w)
    return loss * losses.combine_gradients(V, r, V, V, a, w, lambda_fm=fm, lambda_kl=kl, lambda_lsd=lsd)[0]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_in_which_every_number_changes(backend: str) -> None:
    rows = [tuple(0.2 + 0.07 * index + 0.11 * row for index in range(7)) for row in range(10)]
    assert compilations(step, rows, backend) <= 2


@pytest.mark.parametrize("name", ["score_distillation_loss", "combine_gradients lambda_kl"])
def test_zero_and_one_are_numbers_like_others(name: str) -> None:
    assert compilations(CASES[name], [(x,) for x in (0.5, 0.0, 1.0, 2.0, -1.0, 0.0)]) <= 2
    _dynamo.reset()
    assert compilations(CASES[name], [(x,) for x in (2, 3, 5, 1, 0, 7)]) <= 4  # torch makes constants of 0 and 1


def test_a_second_batch_size_compiles_once_more() -> None:
    def mean_gradient(v: Tensor, weight: float) -> Tensor:
        return losses.combine_gradients(v, v, v, v, 0.5, weight, lambda_fm=0.1, lambda_kl=weight, lambda_lsd=1.0)[0]

    batches = [torch.randn(size, 4, 6, 6) for size in (2, 3, 4, 5, 7)]
    assert compilations(mean_gradient, [(v, 0.5 + index) for index, v in enumerate(batches)]) <= 3


@pytest.mark.parametrize("name", CASES)
def test_numpy_numbers_are_numbers(name: str) -> None:
    for number in (np.float32(0.5), np.float64(0.5), np.int64(2), np.float16(0.25)):
        assert torch.equal(CASES[name](number), CASES[name](number.item()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("value", [True, np.bool_(True), "0.5", None, 1j])
def test_what_is_no_number_is_named(name: str, value: Any) -> None:
    if value is None and name == "guided_residual guidance_scale":
        return  # which means: without guidance
    with pytest.raises((TypeError, ValueError), match=r"expected .*, got (bool|bool_|str|None|NoneType|complex)"):
        CASES[name](value)


@pytest.mark.parametrize("name", CASES)
def test_a_number_on_another_device_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="expected a tensor on the device of the latents, cpu, got one on meta"):
        CASES[name](torch.tensor(0.5, device="meta"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["lambda_fm", "lambda_kl", "lambda_lsd"])
def test_a_lambda_that_is_not_finite_is_refused(name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"combine_gradients: {name}: expected a finite number, got -?(nan|inf)"):
        combined(**{name: number}, nonfinite="zero")


def test_coefficients_of_a_step_that_are_not_finite_show_and_are_counted() -> None:
    """What comes from a step is data: the policy for what is not finite decides."""
    assert not combined(weight=float("nan")).isfinite().any()
    g, found = losses.combine_gradients(
        V, R, None, None, 0.5, float("inf"), lambda_fm=0, lambda_kl=0.2, lambda_lsd=1.0, nonfinite="zero"
    )
    assert g.isfinite().all() and int(found.nonfinite_lsd.sum()) == R.numel()
