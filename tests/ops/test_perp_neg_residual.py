"""perp_neg_residual: Perp-Neg guidance, from the network's output to r = ε̂ − ε."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import reference
from ldp_fast.losses import guided_residual, perp_neg_residual

from ..support import samples
from .common import CASES, NoSync, bitwise_equal, case_id, case_inputs, check_launcher, check_output, launch_device

OP = "perp_neg_residual"


def stable_dreamfusion(out: Tensor, weights: Tensor, scale: float) -> Tensor:
    """ε̂ of [uncond, pos, neg_1 …], copy by copy, as stable-dreamfusion defines it, in our own words.

    Every difference to the unconditional prediction but the first loses its share along the first, and is added with
    its weight where that is larger than 1e-4.
    """
    copies = out.unflatten(0, (-1, weights.shape[0]))
    uncond, positive = copies[0], copies[1] - copies[0]
    total = positive.clone()
    for b, own in enumerate(weights):
        p = positive[b].flatten()
        for i, w in enumerate(own):
            if abs(w) > 1e-4:
                e = (copies[2 + i, b] - uncond[b]).flatten()
                total[b] += w * (e - torch.dot(e, p) / max(torch.dot(p, p), 1e-6) * p).view_as(total[b])
    return uncond + scale * total


def threestudio(out: Tensor, weights: Tensor, scale: float) -> Tensor:
    """ε̂ of [pos, uncond, negatives sample by sample], as threestudio defines it, in our own words."""
    batch, count = weights.shape
    uncond, positive = out[batch : 2 * batch], out[:batch] - out[batch : 2 * batch]
    negatives = out[2 * batch :].unflatten(0, (batch, count)) - uncond[:, None]
    share = torch.einsum("bnchw,bchw->bn", negatives, positive) / positive.square().sum((1, 2, 3))[:, None]
    perpendicular = negatives - share[:, :, None, None, None] * positive[:, None]
    return uncond + scale * (positive + torch.einsum("bn,bnchw->bchw", weights, perpendicular))


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_agrees_with_float64(case, prediction: str, poisoned: None) -> None:
    r = check_output(OP, case_inputs(OP, case, prediction=prediction))
    assert r.dtype == torch.float32


@pytest.mark.parametrize("prediction", samples.PREDICTIONS)
@pytest.mark.parametrize("order", ["uncond_first", "text_first"])
@pytest.mark.parametrize("negatives", ["by_copy", "by_sample"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_convention(prediction: str, order: str, negatives: str, dtype: torch.dtype) -> None:
    """The truth converts every output to a noise before it combines them: the conversions commute with Perp-Neg."""
    options = {"prediction": prediction, "order": order, "negatives": negatives}
    r = check_output(OP, samples.perp_neg_residual.inputs(shape=(3, 4, 5, 7), dtype=dtype, **options))
    assert r.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_negatives(count: int) -> None:
    check_output(OP, samples.perp_neg_residual.inputs(count=count))


@pytest.mark.parametrize(
    "host, order, negatives",
    [(stable_dreamfusion, "uncond_first", "by_copy"), (threestudio, "text_first", "by_sample")],
)
def test_agrees_with_the_hosts(host, order: str, negatives: str) -> None:
    inputs = samples.perp_neg_residual.inputs(shape=(3, 4, 8, 8), dtype=torch.float64, guidance_scale=100.0)
    w = inputs["negative_weights"].double()
    expected = host(inputs["model_output"], w, 100.0) - inputs["noise"]
    torch.testing.assert_close(perp_neg_residual(**inputs, order=order, negatives=negatives), expected)


def test_a_negative_along_the_prompt_is_taken_away_and_a_perpendicular_one_stays() -> None:
    noise, uncond = torch.zeros(1, 4, 4, 4), torch.randn(1, 4, 4, 4)
    positive, across = torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    positive[:, 0], across[:, 1] = 1.5, 2.0
    out = torch.cat([uncond + positive, uncond, uncond + 3 * positive, uncond + across + 5 * positive])
    r = perp_neg_residual(out, noise, torch.tensor([[-1.0, -0.5]]), guidance_scale=10.0)
    torch.testing.assert_close(r, uncond + 10 * (positive - 0.5 * across))


def test_without_weights_it_is_guidance_from_the_unconditional_prediction() -> None:
    inputs = samples.perp_neg_residual.inputs()
    inputs["negative_weights"] = torch.zeros(2, 2)
    inputs["model_output"][4:] = float("nan")
    plain = guided_residual(
        inputs["model_output"][:4], inputs["noise"], guidance_scale=inputs["guidance_scale"], order="text_first"
    )
    assert torch.equal(perp_neg_residual(**inputs), plain)


def test_a_prompt_that_changes_nothing_leaves_the_negatives_alone() -> None:
    inputs = samples.perp_neg_residual.inputs()
    inputs["model_output"][:2] = inputs["model_output"][2:4]
    r = perp_neg_residual(**inputs)
    assert r.isfinite().all()
    uncond, first, second = inputs["model_output"][2:].chunk(3)
    w = inputs["negative_weights"][:, :, None, None, None]
    whole = w[:, 0] * (first - uncond) + w[:, 1] * (second - uncond)
    wanted = uncond + inputs["guidance_scale"][:, None, None, None] * whole - inputs["noise"]
    torch.testing.assert_close(r, wanted)


def test_non_finite_elements_show_in_their_sample_only() -> None:
    inputs = samples.perp_neg_residual.inputs()
    good = perp_neg_residual(**inputs)
    inputs["model_output"][0, 0, 0, 0] = float("nan")
    r = perp_neg_residual(**inputs)
    assert not r[0].isfinite().any() and torch.equal(r[1], good[1])


def test_reproducible_and_without_waiting() -> None:
    inputs = samples.perp_neg_residual.inputs(shape=(2, 1, 1, 5000), dtype=torch.float16, prediction="v_prediction")
    with NoSync():
        first, second = perp_neg_residual(**inputs), perp_neg_residual(**inputs)
    assert bitwise_equal(first, second) and not first.requires_grad


def test_scale_may_be_a_number_or_differ_by_sample() -> None:
    inputs = samples.perp_neg_residual.inputs(guidance_scale=7.5)
    both = perp_neg_residual(**inputs)
    assert torch.equal(both, perp_neg_residual(**inputs | {"guidance_scale": torch.full((2,), 7.5)}))


def test_the_projections_are_what_they_say() -> None:
    inputs = samples.perp_neg_residual.inputs(dtype=torch.float64)
    names = ("model_output", "noise", "negative_weights", "guidance_scale")
    _, projection = torch.ops.ldp_fast.perp_neg_residual(*(inputs[name].double() for name in names))
    text, uncond, *negatives = inputs["model_output"].chunk(4)
    positive = (text - uncond).flatten(1)
    for i, negative in enumerate(negatives):
        share = ((negative - uncond).flatten(1) * positive).sum(1) / positive.square().sum(1)
        torch.testing.assert_close(projection[:, i], share)


@given(
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    prediction=st.sampled_from(samples.PREDICTIONS),
    negatives=st.sampled_from(["by_copy", "by_sample"]),
    count=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=20)
def test_any_shape_dtype_and_layout(shape, dtype, layout, prediction, negatives, count, seed) -> None:
    options: dict[str, Any] = {"prediction": prediction, "negatives": negatives, "count": count}
    check_output(OP, samples.perp_neg_residual.inputs(shape=shape, dtype=dtype, layout=layout, seed=seed, **options))


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 1, 1, 1030), (1, 4, 64, 64)])
@pytest.mark.parametrize("negatives", ["by_copy", "by_sample"])
def test_launcher_writes_its_outputs_and_nothing_else(shape, negatives: str) -> None:
    from ldp_fast.kernels.perp_neg_residual import perp_neg_residual as launcher

    inputs = samples.perp_neg_residual.inputs(shape=shape, prediction="sample", device=launch_device())
    names = ("model_output", "noise", "negative_weights", "guidance_scale", "noisy_latents", "alpha", "sigma")
    arguments = (*(inputs[name] for name in names), "text_first", negatives, "sample")
    fake = torch.empty_like(inputs["noise"]), torch.empty_like(inputs["negative_weights"])
    result, _ = check_launcher(launcher, fake, arguments)
    assert torch.equal(result, perp_neg_residual(**inputs, negatives=negatives))


def test_the_floor_of_the_kernel_is_the_references() -> None:
    kernels = pytest.importorskip("ldp_fast.kernels.perp_neg_residual", reason="Triton is not installed")
    assert kernels.PERP_NEG_FLOOR.value == reference.PERP_NEG_FLOOR


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"order": "last"}, ValueError, "order: expected one of"),
        ({"negatives": "sorted"}, ValueError, "negatives: expected one of 'by_copy', 'by_sample', got 'sorted'"),
        ({"prediction": "x0"}, ValueError, "prediction: expected one of"),
        ({"prediction": "flow"}, ValueError, "noisy_latents: expected a value for prediction='flow', got None"),
        ({"negative_weights": torch.zeros(2)}, ValueError, r"negative_weights: expected shape \[B, K\] with B = 2"),
        ({"negative_weights": torch.zeros(2, 0)}, ValueError, "at least one column"),
        ({"negative_weights": torch.zeros(2, 2).half()}, TypeError, "negative_weights: expected float32"),
        ({"negative_weights": 1.0}, TypeError, "negative_weights: expected a tensor, got float"),
        ({"model_output": torch.zeros(6, 4, 8, 8)}, ValueError, r"expected \[8, 4, 8, 8\] \(for 2 negatives\)"),
        ({"guidance_scale": torch.ones(4)}, ValueError, "guidance_scale: expected a number"),
    ],
)
def test_wrong_arguments_are_named(change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        perp_neg_residual(**samples.perp_neg_residual.inputs() | change)
