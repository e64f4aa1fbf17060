"""score_distillation_loss: gradient w r, value ½·mean(w r²)."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast.losses import score_distillation_loss
from ldp_fast.reference import score_distillation, score_distillation_backward

from ..support import naive, samples
from ..support.tolerances import GRADIENT, assert_close
from .common import (
    CASES,
    bitwise_equal,
    case_id,
    case_inputs,
    check_launcher,
    check_output,
    gradient,
    launch_device,
)

OP = "score_distillation_loss"
REGULAR = [case for case in CASES if math.prod(case[0]) > 0]


def check_field(inputs: dict, upstream: float = 1.0) -> Tensor:
    """Asserts that the gradient is w r, divided by B for a mean."""
    grad = gradient(score_distillation_loss, inputs, upstream)
    truth = upstream * naive.score_distillation_gradient(**samples.widen(inputs))
    assert grad.dtype == inputs["latents"].dtype
    eager = upstream * naive.score_distillation_gradient(**inputs)
    assert_close(grad, eager, truth, factor=GRADIENT, what=f"gradient of {OP}")
    return grad


@pytest.mark.parametrize("case", REGULAR, ids=case_id)
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_agrees_with_float64_forward_and_backward(case, batch_reduction: str, poisoned: None) -> None:
    inputs = case_inputs(OP, case, batch_reduction=batch_reduction)
    assert check_output(OP, inputs).dtype == torch.float32
    check_field(inputs, upstream=3.0)


def test_a_sample_larger_than_a_program() -> None:
    inputs = samples.score_distillation.inputs(shape=(1, 4, 66, 65))
    check_output(OP, inputs)
    check_field(inputs)


def test_the_gradient_is_exactly_the_field() -> None:
    """As the hosts that call latents.backward(gradient=w * r): no factor, and not the value's derivative."""
    inputs = samples.score_distillation.inputs()
    field = inputs["weight"][:, None, None, None] * inputs["residual"]
    assert torch.equal(gradient(score_distillation_loss, inputs | {"batch_reduction": "sum"}), field)
    assert torch.equal(gradient(score_distillation_loss, inputs), 0.5 * field)
    assert torch.equal(gradient(score_distillation_loss, inputs, upstream=-8.0), -4 * field)


def test_it_is_the_mean_squared_error_trick_of_the_hosts() -> None:
    """stable-dreamfusion and threestudio: ½‖v − (v − w r)‖² / B has the same gradient."""
    inputs = samples.score_distillation.inputs(dtype=torch.float64)
    v, r, w = inputs["latents"].requires_grad_(), inputs["residual"], inputs["weight"].double()
    target = (v - w[:, None, None, None] * r).detach()
    host = 0.5 * torch.nn.functional.mse_loss(v, target, reduction="sum") / len(v)
    (wanted,) = torch.autograd.grad(host, v)
    (grad,) = torch.autograd.grad(score_distillation_loss(v, r, inputs["weight"]), v)
    assert torch.allclose(grad, wanted, rtol=1e-10, atol=1e-12)


def test_neither_residual_nor_weight_gets_a_gradient() -> None:
    inputs = {k: t.requires_grad_() for k, t in samples.score_distillation.inputs().items()}
    score_distillation_loss(**inputs).backward()
    assert inputs["latents"].grad is not None
    assert inputs["residual"].grad is None and inputs["weight"].grad is None


def test_dtypes_may_differ() -> None:
    v, r = torch.randn(2, 4, 8, 8).half().requires_grad_(), torch.randn(2, 4, 8, 8)
    (grad,) = torch.autograd.grad(score_distillation_loss(v, r, 1.0, batch_reduction="sum"), v)
    assert grad.dtype == torch.float16 and torch.equal(grad, r.half())


def test_an_empty_batch_is_zero() -> None:
    v = torch.zeros(0, 4, 8, 8, requires_grad=True)
    loss = score_distillation_loss(v, torch.zeros(0, 4, 8, 8), 1.0)
    loss.backward()
    assert loss.item() == 0 and v.grad is not None and v.grad.shape == v.shape


def test_the_result_is_the_same_from_run_to_run() -> None:
    inputs = samples.score_distillation.inputs(shape=(2, 4, 33, 33))
    assert bitwise_equal(score_distillation_loss(**inputs), score_distillation_loss(**inputs))


def test_differentiating_twice_is_an_error() -> None:
    v = torch.randn(2, 4, 8, 8, requires_grad=True)
    weight = torch.ones(2)
    loss = score_distillation_loss(v * v, torch.randn(2, 4, 8, 8), weight)
    upstream = torch.ones((), requires_grad=True)
    (grad,) = torch.autograd.grad(loss, v, upstream, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        grad.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_policies(bad: float) -> None:
    inputs = samples.score_distillation.inputs(batch_reduction="sum")
    clean = gradient(score_distillation_loss, inputs)
    inputs["residual"][0, 1, 2, 3] = bad
    assert not score_distillation_loss(**inputs).isfinite()
    propagated = gradient(score_distillation_loss, inputs)
    assert (~propagated.isfinite()).sum() == 1

    zeroed = gradient(score_distillation_loss, inputs | {"nonfinite": "zero"})
    clean[0, 1, 2, 3] = 0
    assert torch.equal(zeroed, clean)
    replaced = inputs["residual"].clone()
    replaced[0, 1, 2, 3] = 0
    loss = score_distillation_loss(**inputs, nonfinite="zero")
    assert torch.allclose(loss, score_distillation_loss(**inputs | {"residual": replaced}))

    with pytest.raises(FloatingPointError, match=r"score_distillation_loss: .*1 in the LSD term"):
        score_distillation_loss(**inputs, nonfinite="raise")


@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([1e-2, 1.0, 1e2]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, seed) -> None:
    inputs = samples.score_distillation.inputs(shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed)
    check_output(OP, inputs)
    check_field(inputs)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 4, 66, 65)])
def test_launchers_write_their_output_and_nothing_else(shape) -> None:
    from ldp_fast.kernels import score_distillation as kernels

    inputs = samples.score_distillation.inputs(shape=shape, device=launch_device())
    v, r, w = inputs["latents"], inputs["residual"], inputs["weight"]
    wanted = score_distillation(r, w)
    value, count = check_launcher(kernels.score_distillation, wanted, (v, r, w))
    assert torch.allclose(value, wanted[0], rtol=1e-5) and torch.equal(count, wanted[1])
    (grad,) = check_launcher(kernels.score_distillation_backward, torch.empty_like(r), (w, r, w, r.dtype))
    assert torch.allclose(grad, score_distillation_backward(w, r, w, r.dtype), rtol=1e-6)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"residual": torch.zeros(2, 4, 8, 9)}, "residual: expected the shape of latents"),
        ({"weight": torch.ones(2, 1)}, "weight: expected a number or a tensor of shape"),
        ({"nonfinite": "skip"}, "nonfinite: expected one of"),
    ],
)
def test_wrong_arguments_are_named(change, message: str) -> None:
    with pytest.raises(ValueError, match=f"score_distillation_loss: {message}"):
        score_distillation_loss(**samples.score_distillation.inputs() | change)
