"""latent_kl_loss: Eq. 3 on the moments of every sample."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldp_fast.losses import latent_kl_loss
from ldp_fast.reference import KL_VARIANCE_FLOOR, latent_kl, latent_kl_backward

from ..support import naive, samples
from .common import (
    CASES,
    bitwise_equal,
    case_id,
    case_inputs,
    check_gradient,
    check_launcher,
    check_output,
    launch_device,
)

OP = "latent_kl_loss"
# An empty batch and a single element have no variance; they have tests of their own.
REGULAR = [case for case in CASES if math.prod(case[0]) > 1]


@pytest.mark.parametrize("case", REGULAR, ids=case_id)
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_agrees_with_float64_forward_and_backward(case, batch_reduction: str, poisoned: None) -> None:
    inputs = case_inputs(OP, case, batch_reduction=batch_reduction)
    assert check_output(OP, inputs).dtype == torch.float32
    # A mean over N elements has gradients below float16's range: 1024 is what a GradScaler would do about it.
    check_gradient(OP, inputs, naive.latent_kl_loss, upstream=1024.0)


def test_a_sample_larger_than_a_program() -> None:
    inputs = samples.latent_kl.inputs(shape=(4, 4, 66, 65))
    check_output(OP, inputs)
    check_gradient(OP, inputs, naive.latent_kl_loss)


def test_an_offset_does_not_cancel_the_variance() -> None:
    """One-pass moments lose everything here: the squares are 1e6 times the variance's size."""
    v = 1000 + torch.randn(1, 4, 32, 32, dtype=torch.float64)
    _, mean, variance, _ = torch.ops.ldp_fast.latent_kl(v.float())
    assert abs(mean.item() / v.mean().item() - 1) < 1e-6
    assert abs(variance.item() / v.float().double().var(unbiased=False).item() - 1) < 1e-5


@pytest.mark.parametrize("value", [0.0, 2.5, -1e3])
def test_a_constant_latent_has_a_finite_value_and_gradient(value: float) -> None:
    v = torch.full((2, 4, 8, 8), value, requires_grad=True)
    loss = latent_kl_loss(v)
    (grad,) = torch.autograd.grad(loss, v)
    wanted = 0.5 * (value**2 + 1 - math.log(KL_VARIANCE_FLOOR) + 1)
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert grad.isfinite().all() and torch.allclose(grad, torch.full_like(grad, value / 512), rtol=1e-4)


def test_a_single_element_is_a_constant() -> None:
    v = torch.ones(1, 1, 1, 1, requires_grad=True)
    loss = latent_kl_loss(v)
    loss.backward()
    assert loss.isfinite() and v.grad is not None and v.grad.item() == pytest.approx(1.0)


def test_an_empty_batch_is_zero() -> None:
    v = torch.zeros(0, 4, 8, 8, requires_grad=True)
    loss = latent_kl_loss(v)
    loss.backward()
    assert loss.item() == 0 and v.grad is not None and v.grad.shape == v.shape


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5])
def test_gradcheck_on_both_sides_of_the_floor(spread: float) -> None:
    v = (0.3 + spread * torch.randn(2, 2, 3, 3, dtype=torch.float64)).requires_grad_()
    # A step of the order of the spread, and a tolerance relative to gradients that grow as 1 / spread.
    assert torch.autograd.gradcheck(latent_kl_loss, v, eps=1e-6 * spread, atol=1e-6 / spread, rtol=1e-4)


def test_it_is_smallest_for_a_standard_normal() -> None:
    v = torch.randn(1, 4, 32, 32, dtype=torch.float64)
    v = ((v - v.mean()) / v.std(unbiased=False)).requires_grad_()
    loss = latent_kl_loss(v)
    loss.backward()
    assert loss.item() == pytest.approx(1.0) and v.grad is not None and v.grad.abs().max() < 1e-12


def test_the_result_is_the_same_from_run_to_run() -> None:
    v = torch.randn(2, 4, 33, 33, requires_grad=True)
    runs = [(loss := latent_kl_loss(v), *torch.autograd.grad(loss, v)) for _ in range(2)]
    assert all(bitwise_equal(a.detach(), b.detach()) for a, b in zip(*runs, strict=True))


def test_differentiating_twice_is_an_error() -> None:
    v = torch.randn(2, 4, 8, 8, requires_grad=True)
    (grad,) = torch.autograd.grad(latent_kl_loss(v), v, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        grad.sum().backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nonfinite_policies(bad: float) -> None:
    v = torch.randn(2, 4, 8, 8)
    v[0, 1, 2, 3] = bad
    alone = latent_kl_loss(v[1:], batch_reduction="sum")
    assert not latent_kl_loss(v).isfinite()

    v.requires_grad_()
    loss = latent_kl_loss(v, batch_reduction="sum", nonfinite="zero")
    (grad,) = torch.autograd.grad(loss, v)
    assert torch.equal(loss, alone) and grad[0].eq(0).all() and grad[1].ne(0).any()
    (propagated,) = torch.autograd.grad(latent_kl_loss(v), v)
    assert not propagated[0].isfinite().any() and propagated[1].isfinite().all()

    with pytest.raises(FloatingPointError, match=r"latent_kl_loss: .*256 in the KL term"):
        latent_kl_loss(v, nonfinite="raise")
    latent_kl_loss(v[1:], nonfinite="raise")


def cancellation(latents: torch.Tensor) -> float:
    """How much of μ + (v − μ)(1 − 1/σ²) cancels: near σ² = 1 and μ = 0 the terms are far larger than the gradient."""
    v = latents.double()
    mean, variance = v.mean((1, 2, 3), keepdim=True), v.var((1, 2, 3), keepdim=True, unbiased=False)
    terms = mean.abs() + (v - mean).abs() * (1 + 1 / variance)
    left = mean + (v - mean) * (1 - 1 / variance)
    return float(max(terms.max() / left.abs().max(), terms.norm() / left.norm()))


@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(2, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([0.1, 1.0, 10.0]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
@example(shape=(1, 4, 4, 9), dtype=torch.float32, layout="contiguous", magnitude=1.0, seed=8)  # σ² = 1.06
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, seed) -> None:
    inputs = samples.latent_kl.inputs(shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed)
    check_output(OP, inputs)
    check_gradient(OP, inputs, naive.latent_kl_loss, upstream=256.0, condition=cancellation(inputs["latents"]))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 4, 66, 65)])
def test_launchers_write_their_output_and_nothing_else(shape) -> None:
    from ldp_fast.kernels import latent_kl as kernels

    v = samples.latent_kl.inputs(shape=shape, device=launch_device())["latents"]
    fake = latent_kl(v)
    value, mean, variance, count = check_launcher(kernels.latent_kl, fake, (v,))
    for result, wanted in zip((value, mean, variance), fake, strict=False):
        assert torch.allclose(result, wanted, rtol=1e-5, atol=1e-6)
    assert count.eq(0).all()
    (grad,) = check_launcher(kernels.latent_kl_backward, torch.empty_like(v), (value, v, mean, variance))
    assert torch.allclose(grad, latent_kl_backward(value, v, mean, variance), rtol=1e-5, atol=1e-7)


def test_kernel_and_reference_share_the_floor() -> None:
    device = pytest.importorskip("ldp_fast.kernels._device", reason="Triton is not installed")
    assert device.KL_VARIANCE_FLOOR.value == KL_VARIANCE_FLOOR


@pytest.mark.parametrize(
    "change, message",
    [
        ({"latents": torch.zeros(4, 8)}, "latents: expected shape"),
        ({"batch_reduction": "none"}, "batch_reduction: expected one of 'mean', 'sum', got 'none'"),
        ({"nonfinite": "ignore"}, "nonfinite: expected one of 'propagate', 'zero', 'raise', got 'ignore'"),
    ],
)
def test_wrong_arguments_are_named(change, message: str) -> None:
    with pytest.raises(ValueError, match=f"latent_kl_loss: {message}"):
        latent_kl_loss(**samples.latent_kl.inputs() | change)
