"""guided_residual: from the network's output to r = ε̂ − ε."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldp_fast.losses import guided_residual

from ..support import samples
from .common import CASES, case_id, case_inputs, check_launcher, check_output, launch_device


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_agrees_with_float64(case, prediction: str, poisoned: None) -> None:
    r = check_output("guided_residual", case_inputs("guided_residual", case, prediction=prediction))
    assert r.dtype == torch.float32


@pytest.mark.parametrize("prediction", samples.PREDICTIONS)
@pytest.mark.parametrize("guidance", ["from_uncond", "from_text"])
@pytest.mark.parametrize("order", ["uncond_first", "text_first"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_every_convention(prediction: str, guidance: str, order: str, dtype: torch.dtype) -> None:
    options = {"prediction": prediction, "guidance": guidance, "order": order}
    r = check_output("guided_residual", samples.guided_residual.inputs(dtype=dtype, **options))
    assert r.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("prediction", samples.PREDICTIONS)
def test_without_guidance_the_batch_is_not_doubled(prediction: str) -> None:
    check_output("guided_residual", samples.guided_residual.inputs(guidance_scale=None, prediction=prediction))


@pytest.mark.parametrize("prediction", samples.PREDICTIONS)
def test_a_perfect_network_leaves_no_residual(prediction: str) -> None:
    """Every prediction type, given what it should have predicted, returns the noise that was added."""
    v, noise = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.randn(2, 4, 8, 8, dtype=torch.float64)
    alpha, sigma = (0.4, 0.6) if prediction == "flow" else (0.8, 0.6)
    z = v + sigma * noise if prediction == "sigma" else alpha * v + sigma * noise
    perfect = {
        "epsilon": noise,
        "v_prediction": alpha * noise - sigma * v,
        "sample": v,
        "flow": noise - v,
        "sigma": v,
    }[prediction]
    r = guided_residual(perfect, noise, prediction=prediction, noisy_latents=z, alpha=alpha, sigma=sigma)
    assert r.abs().max() < 1e-12


def test_the_first_copy_of_a_repeated_batch_is_read_in_place() -> None:
    inputs = samples.guided_residual.inputs(prediction="v_prediction")
    full = guided_residual(**inputs)
    inputs["noisy_latents"] = inputs["noisy_latents"][:2].clone()
    assert torch.equal(full, guided_residual(**inputs))


def test_scale_may_be_a_number_or_differ_by_sample() -> None:
    inputs = samples.guided_residual.inputs(guidance_scale=7.5)
    both = guided_residual(**inputs)
    assert torch.equal(both, guided_residual(**inputs | {"guidance_scale": torch.full((2,), 7.5)}))
    mixed = guided_residual(**inputs | {"guidance_scale": torch.tensor([7.5, 1.0])})
    assert torch.equal(mixed[0], both[0]) and not torch.equal(mixed[1], both[1])


def test_both_definitions_differ_by_one_in_the_scale() -> None:
    inputs = samples.guided_residual.inputs(dtype=torch.float64)
    inputs["guidance_scale"] = inputs["guidance_scale"].double()
    a = guided_residual(**inputs, guidance="from_text")
    b = guided_residual(**inputs | {"guidance_scale": inputs["guidance_scale"] + 1})
    assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_network_and_noise_may_differ_in_dtype() -> None:
    inputs = samples.guided_residual.inputs(prediction="v_prediction")
    half = inputs | {"model_output": inputs["model_output"].half(), "noisy_latents": inputs["noisy_latents"].bfloat16()}
    wide = half | {"model_output": half["model_output"].float(), "noisy_latents": half["noisy_latents"].float()}
    assert torch.equal(guided_residual(**half), guided_residual(**wide))


def test_the_residual_has_no_graph() -> None:
    inputs = samples.guided_residual.inputs()
    inputs["model_output"].requires_grad_()
    assert not guided_residual(**inputs).requires_grad


@given(
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([1e-2, 1.0, 1e2]),
    prediction=st.sampled_from(samples.PREDICTIONS),
    guided=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, prediction, guided, seed) -> None:
    options = {"prediction": prediction} | ({} if guided else {"guidance_scale": None})
    check_output(
        "guided_residual",
        samples.guided_residual.inputs(
            shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed, **options
        ),
    )


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 1, 1, 1030)])
def test_launcher_writes_its_output_and_nothing_else(shape) -> None:
    from ldp_fast.kernels.guided_residual import guided_residual as launcher

    inputs = samples.guided_residual.inputs(shape=shape, prediction="sample", device=launch_device())
    names = ("model_output", "noise", "guidance_scale", "noisy_latents", "alpha", "sigma")
    arguments = (*(inputs[name] for name in names), "from_uncond", "uncond_first", "sample")
    (result,) = check_launcher(launcher, torch.empty_like(inputs["noise"]), arguments)
    assert torch.equal(result, guided_residual(**inputs))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"guidance": "both"}, ValueError, "guidance: expected one of 'from_uncond', 'from_text', got 'both'"),
        ({"order": "last"}, ValueError, "order: expected one of"),
        ({"prediction": "x0"}, ValueError, "prediction: expected one of"),
        ({"prediction": "flow"}, ValueError, "noisy_latents: expected a value for prediction='flow', got None"),
        ({"model_output": torch.zeros(4, 8, 8, 8)}, ValueError, "learned variance"),
        ({"model_output": torch.zeros(2, 4, 8, 8)}, ValueError, r"expected \[4, 4, 8, 8\] \(with guidance\)"),
        ({"guidance_scale": None}, ValueError, r"expected \[2, 4, 8, 8\] \(without guidance\)"),
        ({"guidance_scale": torch.ones(4)}, ValueError, "guidance_scale: expected a number"),
        (
            {"prediction": "sigma", "sigma": 1.0, "noisy_latents": torch.zeros(3, 4, 8, 8)},
            ValueError,
            r"noisy_latents: expected \[K·2, 4, 8, 8\]",
        ),
    ],
)
def test_wrong_arguments_are_named(change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        guided_residual(**samples.guided_residual.inputs() | change)
