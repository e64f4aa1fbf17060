"""residual_latents: v′ = v + r, whose derivative is 1 + α."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldp_fast.losses import residual_latents

from ..support import naive, samples
from .common import CASES, case_id, case_inputs, check_gradient, check_launcher, check_output, launch_device

OP = "residual_latents"


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_agrees_with_float64_forward_and_backward(case, poisoned: None) -> None:
    inputs = case_inputs(OP, case)
    updated = check_output(OP, inputs)
    assert updated.dtype == inputs["latents"].dtype
    check_gradient(OP, inputs, naive.residual_latents)


def test_the_one_line_oracle_for_one_plus_alpha() -> None:
    """The right value and the right derivative, by autograd alone."""
    inputs = samples.residual_latents.inputs(dtype=torch.float64)
    v, r, alpha = inputs["latents"].requires_grad_(), inputs["residual"], inputs["alpha"]
    a = alpha.double()[:, None, None, None]
    oracle = (1 + a) * v - (a * v).detach() + r.detach()
    (wanted,) = torch.autograd.grad(oracle.sin().sum(), v)
    updated = residual_latents(v, r, alpha)
    (grad,) = torch.autograd.grad(updated.sin().sum(), v)
    assert torch.allclose(updated, oracle, rtol=1e-14) and torch.allclose(grad, wanted, rtol=1e-14)


def test_the_gradient_is_the_incoming_one_times_one_plus_alpha() -> None:
    inputs = samples.residual_latents.inputs()
    v = inputs["latents"].requires_grad_()
    incoming = torch.randn_like(v)
    (grad,) = torch.autograd.grad(residual_latents(**inputs), v, incoming)
    assert torch.equal(grad, (1 + inputs["alpha"])[:, None, None, None] * incoming)


def test_the_residual_gets_no_gradient() -> None:
    inputs = samples.residual_latents.inputs()
    v, r = inputs["latents"].requires_grad_(), inputs["residual"].requires_grad_()
    residual_latents(v, r, inputs["alpha"]).sum().backward()
    assert v.grad is not None and r.grad is None
    assert not residual_latents(v.detach(), r, inputs["alpha"]).requires_grad


def test_a_float32_residual_is_added_before_rounding() -> None:
    inputs = samples.residual_latents.inputs(dtype=torch.float16)
    r = torch.randn(2, 4, 8, 8)
    updated = residual_latents(inputs["latents"], r, 0.5)
    assert torch.equal(updated, (inputs["latents"].float() + r).half())


def test_gradients_that_arrive_expanded_or_transposed() -> None:
    v = torch.randn(2, 4, 8, 8, requires_grad=True)
    alpha = torch.tensor([0.25, 0.5])
    updated = residual_latents(v, torch.zeros_like(v), alpha)
    for incoming in (torch.ones(()).expand(2, 4, 8, 8), torch.randn(2, 4, 8, 8).transpose(2, 3)):
        (grad,) = torch.autograd.grad(updated, v, incoming, retain_graph=True)
        assert torch.equal(grad, (1 + alpha)[:, None, None, None] * incoming)


def test_differentiating_twice_is_an_error() -> None:
    inputs = samples.residual_latents.inputs()
    v = inputs["latents"].requires_grad_()
    (grad,) = torch.autograd.grad(residual_latents(**inputs).square().sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        grad.sum().backward()


@given(
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([1e-2, 1.0, 1e2]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, seed) -> None:
    inputs = samples.residual_latents.inputs(shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed)
    check_output(OP, inputs)
    check_gradient(OP, inputs, naive.residual_latents)


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 1, 1, 1030)])
def test_launchers_write_their_output_and_nothing_else(shape) -> None:
    from ldp_fast.kernels import residual_latents as kernels

    inputs = samples.residual_latents.inputs(shape=shape, device=launch_device())
    (result,) = check_launcher(kernels.residual_latents, torch.empty_like(inputs["latents"]), tuple(inputs.values()))
    assert torch.equal(result, residual_latents(**inputs))
    check_launcher(kernels.residual_latents_backward, torch.empty_like(result), (inputs["residual"], inputs["alpha"]))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"latents": torch.zeros(2, 4)}, ValueError, r"residual_latents: latents: expected shape \[B, C, H, W\]"),
        ({"residual": torch.zeros(2, 4, 8, 4)}, ValueError, "residual: expected the shape of latents"),
        ({"alpha": torch.ones(2, dtype=torch.bfloat16)}, TypeError, "alpha: expected float32"),
    ],
)
def test_wrong_arguments_are_named(change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        residual_latents(**samples.residual_latents.inputs() | change)
