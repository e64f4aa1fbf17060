"""combine_gradients: the whole gradient of Eq. 4, and its statistics."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast.losses import (
    GradientStatistics,
    combine_gradients,
    latent_kl_loss,
    residual_latents,
    score_distillation_loss,
)
from ldp_fast.reference import combine_gradients as reference

from ..support import naive, samples
from ..support.tolerances import assert_close
from .common import CASES, bitwise_equal, case_id, case_inputs, check_launcher, check_output, launch_device

OP = "combine_gradients"
REGULAR = [case for case in CASES if math.prod(case[0]) > 1]
TERMS = ("latents", "residual", "grad_v", "grad_v_prime", "alpha", "weight", "scale")


def positional(inputs: dict[str, Any]) -> dict[str, Any]:
    """The naive formula takes the gradients by position; this keeps their names."""
    return {key: inputs[key] for key in TERMS if key in inputs}


def check(inputs: dict[str, Any]) -> tuple[Tensor, GradientStatistics]:
    """Asserts that g and every statistic agree with the naive formulas in float64."""
    g, statistics = combine_gradients(**inputs)
    lambdas = {key: inputs[key] for key in ("lambda_fm", "lambda_kl", "lambda_lsd", "batch_reduction") if key in inputs}

    def formula(values: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        terms = naive.combine_terms(**positional(values))
        total = naive.combine_terms_weighted(terms, **lambdas)
        v, flat = values["latents"], values["latents"].flatten(1)
        lsd = 0.5 * (values["residual"] * terms["lsd"]).flatten(1).mean(1)
        mean, variance = flat.mean(1), flat.var(1, unbiased=False)
        kl = torch.stack([naive.latent_kl_loss(sample[None]) for sample in v])
        numbers = {"mean": mean, "variance": variance, "kl": kl, "lsd": lsd, "norm_total": total.flatten(1).norm(dim=1)}
        return total, numbers | {f"norm_{name}": term.flatten(1).norm(dim=1) for name, term in terms.items()}

    truth, numbers = formula(samples.widen(inputs))
    eager, eager_numbers = formula(inputs)
    assert_close(g, eager, truth, what="g")
    for name, number in numbers.items():
        assert_close(getattr(statistics, name), eager_numbers[name], number, what=name)
    for name in ("lsd", "fm", "kl"):
        assert getattr(statistics, f"nonfinite_{name}").eq(0).all()
    return g, statistics


@pytest.mark.parametrize("case", REGULAR, ids=case_id)
@pytest.mark.parametrize("scale", ["latent", "literal"])
def test_agrees_with_float64(case, scale: str, poisoned: None) -> None:
    g, statistics = check(case_inputs(OP, case, scale=scale))
    assert g.dtype == torch.float32 and not g.requires_grad
    assert all(x.shape == case[0][:1] for x in statistics)
    assert all(x.dtype == (torch.int32 if name.startswith("nonfinite") else torch.float32)
               for name, x in statistics._asdict().items())  # fmt: skip


@pytest.mark.parametrize("scale", ["latent", "literal"])
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_option(scale: str, batch_reduction: str, dtype: torch.dtype) -> None:
    g, _ = check(samples.combine_gradients.inputs(dtype=dtype, scale=scale, batch_reduction=batch_reduction))
    assert g.dtype == dtype


def test_a_sample_larger_than_a_program() -> None:
    check(samples.combine_gradients.inputs(shape=(1, 4, 66, 65)))


@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_gradient_mode_is_loss_mode(batch_reduction: str) -> None:
    """The sum of the losses, differentiated by autograd, gives the same g."""
    inputs = samples.combine_gradients.inputs(dtype=torch.float64)
    v, r, alpha = inputs["latents"].requires_grad_(), inputs["residual"], inputs["alpha"]
    reduction: Any = {"batch_reduction": batch_reduction}
    matrix = torch.randn(256, 64, dtype=torch.float64)

    def features(x: Tensor) -> Tensor:
        return (x.flatten(1) @ matrix).sin()

    def matching(x: Tensor, x_prime: Tensor) -> Tensor:
        return (features(x) - features(x_prime)).abs().mean(1)

    elements = v[0].numel()
    lsd = score_distillation_loss(v, r, inputs["weight"], **reduction)
    kl = elements * latent_kl_loss(v, **reduction)
    fm = elements * getattr(matching(v, residual_latents(v, r, alpha)), batch_reduction)()
    (wanted,) = torch.autograd.grad(0.3 * fm + 0.2 * kl + 0.7 * lsd, v)

    a, b = v.detach().clone().requires_grad_(), (v + r).detach().requires_grad_()
    grad_v, grad_v_prime = torch.autograd.grad(matching(a, b).sum(), (a, b))
    g, _ = combine_gradients(
        v, r, grad_v, grad_v_prime, alpha, inputs["weight"], lambda_fm=0.3, lambda_kl=0.2, lambda_lsd=0.7, **reduction
    )
    assert torch.allclose(g, wanted, rtol=1e-10, atol=1e-12)


def test_lambdas_on_the_device_give_the_same_bits() -> None:
    inputs = samples.combine_gradients.inputs(lambda_fm=0.25, lambda_kl=0.5, lambda_lsd=2.0)
    g, _ = combine_gradients(**inputs)
    for make in (torch.tensor, lambda x: torch.full((2,), x)):
        tensors = {key: make(inputs[key]) for key in ("lambda_fm", "lambda_kl", "lambda_lsd")}
        assert bitwise_equal(combine_gradients(**inputs | tensors)[0], g)


def test_lambdas_may_differ_by_sample() -> None:
    inputs = samples.combine_gradients.inputs(batch_reduction="sum")
    g, _ = combine_gradients(**inputs | {"lambda_lsd": torch.tensor([1.0, 0.0])})
    with_lsd, _ = combine_gradients(**inputs)
    without, _ = combine_gradients(**inputs | {"lambda_lsd": 0.0})
    assert torch.equal(g[0], with_lsd[0]) and torch.equal(g[1], without[1])


def test_without_feature_matching_no_gradients_are_needed() -> None:
    inputs = samples.combine_gradients.inputs(grad_v=None, grad_v_prime=None, lambda_fm=0)
    g, statistics = combine_gradients(**inputs)
    zeros = torch.zeros_like(g)
    wanted, _ = combine_gradients(**inputs | {"grad_v": zeros, "grad_v_prime": zeros})
    assert torch.equal(g, wanted) and statistics.norm_fm.eq(0).all()


def test_an_empty_batch_gives_an_empty_gradient() -> None:
    g, statistics = combine_gradients(**samples.combine_gradients.inputs(shape=(0, 4, 8, 8)))
    assert g.shape == (0, 4, 8, 8) and all(x.shape == (0,) for x in statistics)


def test_a_constant_latent_is_finite() -> None:
    g, statistics = combine_gradients(**samples.combine_gradients.inputs() | {"latents": torch.zeros(2, 4, 8, 8)})
    assert g.isfinite().all() and all(x.isfinite().all() for x in statistics)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
def test_memory_format_follows_the_latents(layout: str) -> None:
    g, _ = combine_gradients(**samples.combine_gradients.inputs(layout=layout))
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert g.is_contiguous(memory_format=wanted)


def test_the_result_is_the_same_from_run_to_run() -> None:
    inputs = samples.combine_gradients.inputs(shape=(2, 4, 33, 33))
    (a, statistics_a), (b, statistics_b) = combine_gradients(**inputs), combine_gradients(**inputs)
    assert bitwise_equal(a, b) and all(bitwise_equal(x, y) for x, y in zip(statistics_a, statistics_b, strict=True))


@pytest.mark.parametrize("name, term", [("residual", "lsd"), ("grad_v", "fm"), ("grad_v_prime", "fm")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7)])
def test_zero_replaces_the_offending_elements_of_that_term_and_counts_them(name, term, bad: float, shape) -> None:
    inputs = samples.combine_gradients.inputs(shape=shape)
    clean, before = combine_gradients(**inputs)
    inputs[name][1, 2, 3, 4] = bad
    propagated, _ = combine_gradients(**inputs)
    assert (~propagated.isfinite()).sum() == 1

    g, statistics = combine_gradients(**inputs, nonfinite="zero")
    where = torch.zeros_like(g, dtype=torch.bool)
    where[1, 2, 3, 4] = True
    assert torch.equal(g[~where], clean[~where]) and g.isfinite().all()
    terms = naive.combine_terms(**positional(inputs))
    terms[term] = terms[term].where(~where, 0)
    wanted = naive.combine_terms_weighted(terms, lambda_fm=0.01, lambda_kl=0.1, lambda_lsd=1.0)
    assert torch.allclose(g[where], wanted[where], rtol=1e-5)
    for other in ("lsd", "fm", "kl"):
        count = getattr(statistics, f"nonfinite_{other}")
        assert count.tolist() == [int(other == term and sample == 1) for sample in range(shape[0])]
    assert all(getattr(statistics, f"norm_{x}").isfinite().all() for x in ("lsd", "fm", "kl", "total"))
    assert torch.equal(statistics.norm_kl, before.norm_kl) and statistics.lsd.isfinite().all()

    where_named = {"lsd": "the LSD term", "fm": "the feature matching term"}[term]
    with pytest.raises(FloatingPointError, match=f"combine_gradients: .*1 in {where_named}"):
        combine_gradients(**inputs, nonfinite="raise")


def test_a_latent_that_is_not_finite_takes_its_whole_kl_term() -> None:
    inputs = samples.combine_gradients.inputs()
    inputs["latents"][0, 0, 0, 0] = float("nan")
    g, statistics = combine_gradients(**inputs, nonfinite="zero")
    untouched, _ = combine_gradients(**samples.combine_gradients.inputs())
    no_kl, _ = combine_gradients(**samples.combine_gradients.inputs() | {"lambda_kl": 0.0})
    assert torch.equal(g[0], no_kl[0]) and torch.equal(g[1], untouched[1])
    assert statistics.nonfinite_kl.tolist() == [256, 0]
    assert statistics.mean[0].isnan() and statistics.kl[0].isnan() and statistics.norm_kl[0] == 0


def test_a_lambda_of_zero_switches_a_term_off() -> None:
    inputs = samples.combine_gradients.inputs()
    inputs["grad_v"][0, 0, 0, 0] = float("nan")
    g, statistics = combine_gradients(**inputs | {"lambda_fm": 0.0})
    assert g.isfinite().all() and statistics.nonfinite_fm.tolist() == [1, 0]


@given(
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(2, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([0.3, 1.0, 3.0]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, seed) -> None:
    check_output(
        OP, samples.combine_gradients.inputs(shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed)
    )


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 4, 66, 65)])
@pytest.mark.parametrize("with_fm", [True, False])
def test_launcher_writes_its_output_and_nothing_else(shape, with_fm: bool) -> None:
    from ldp_fast.kernels.combine_gradients import combine_gradients as launcher

    inputs = samples.combine_gradients.inputs(shape=shape, device=launch_device())
    if not with_fm:
        inputs |= {"grad_v": None, "grad_v_prime": None}
    wanted = reference(**inputs)
    results = check_launcher(launcher, wanted, tuple(inputs.values()))
    for result, expected in zip(results, wanted, strict=True):
        assert torch.allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"grad_v": None}, ValueError, "grad_v: expected a tensor unless lambda_fm is the number 0, got None"),
        (
            {"grad_v_prime": None, "lambda_fm": torch.tensor(0.0)},
            ValueError,
            "grad_v_prime: expected a tensor unless lambda_fm is the number 0",
        ),
        ({"scale": "natural"}, ValueError, "scale: expected one of 'latent', 'literal', got 'natural'"),
        ({"lambda_kl": torch.ones(3)}, ValueError, "lambda_kl: expected a number or a tensor of shape"),
        ({"lambda_lsd": None}, TypeError, "lambda_lsd: expected a number or a tensor, got NoneType"),
        ({"batch_reduction": "max"}, ValueError, "batch_reduction: expected one of"),
    ],
)
def test_wrong_arguments_are_named(change, error, message: str) -> None:
    with pytest.raises(error, match=f"combine_gradients: {message}"):
        combine_gradients(**samples.combine_gradients.inputs() | change)
