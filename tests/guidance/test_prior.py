"""Loss mode = gradient mode = the naive implementation, for every convention; and the prior's errors."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ldp_fast.errors import UsageError
from ldp_fast.guidance import PRESETS, LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..support.models import TEXT_WIDTH, scheduler, tiny_unet, tiny_vae
from .naive import naive_gradient


def make_inputs(batch: int = 2, channels: int = 4, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(3)
    v, noise = (torch.randn(batch, channels, 8, 8, generator=generator, dtype=dtype) for _ in range(2))
    uncond, text = (torch.randn(batch, 5, TEXT_WIDTH, generator=generator, dtype=dtype) for _ in range(2))
    t = torch.tensor([37, 812, 490, 950])[:batch]
    return v, noise, TextEmbeddings(text, uncond), t


def make_prior() -> LatentDiffusionPrior:
    settings = PriorSettings(0.3, 0.1, guidance_scale=2.0)
    return LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler(), settings=settings)


def check_against_naive(settings: PriorSettings, prediction: str = "epsilon", channels: int = 4, **vae_options) -> None:
    """In float64, where the only difference left is a wrong formula (the float32 tables of α_t aside)."""
    unet = tiny_unet(channels=channels).double()
    vae = tiny_vae(latent_channels=channels, **vae_options).double()
    sampler = FlowMatchEulerDiscreteScheduler() if prediction == "flow" else scheduler(prediction)
    prior = LatentDiffusionPrior(unet, vae, sampler, settings=settings)
    v, noise, text, t = make_inputs(channels=channels, dtype=torch.float64)
    expected, values = naive_gradient(
        unet, vae, sampler, settings, prior.guidance_scale, prediction, v, text.uncond, text.text, t, noise
    )
    grad, statistics = prior.gradient(v, text, timesteps=t, noise=noise)
    assert_near(grad, expected)
    leaf = v.clone().requires_grad_()
    out = prior(leaf, text, timesteps=t, noise=noise)
    (out.loss * 3).backward()
    assert_near(leaf.grad, 3 * expected)
    step = prior.capture(v, text)
    assert not step.captured
    assert_near(step(v, timesteps=t, noise=noise)[0], expected)
    for name in ("lsd", "fm", "kl"):
        torch.testing.assert_close(getattr(out, name).double(), values[name], rtol=1e-4, atol=1e-6)
    lambdas = {"lsd": settings.lambda_lsd, "fm": settings.lambda_fm, "kl": settings.lambda_kl}
    torch.testing.assert_close(
        out.loss.double(), sum(lambdas[name] * values[name] for name in values), rtol=1e-4, atol=1e-6
    )
    if settings.scale != "literal":
        numbers = statistics.read()
        assert numbers["nonfinite_lsd"] == numbers["nonfinite_kl"] == 0


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = (actual.double() - expected).norm() / expected.norm()
    assert error < 2e-5, f"relative error {error:.2e}"


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize(
    ("guidance", "order"), list(itertools.product(("from_uncond", "from_text"), ("uncond_first", "text_first")))
)
def test_conventions(prediction: str, guidance: str, order: str) -> None:
    settings = PriorSettings(0.3, 0.2, 1.0, guidance_scale=7.5, guidance=guidance, order=order, prediction=prediction)
    check_against_naive(settings, prediction)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", ["latent", "literal", "balanced"])
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
def test_presets(preset: str, scale: str, batch_reduction: str) -> None:
    settings = PRESETS[preset].settings
    check_against_naive(
        dataclasses.replace(settings, guidance_scale=15.0, scale=scale, batch_reduction=batch_reduction)
    )


@pytest.mark.parametrize("weighting", ["uniform", "dreamfusion", "latent_nerf"])
def test_weightings(weighting: str) -> None:
    check_against_naive(PriorSettings(0.1, 0.1, 1.0, guidance_scale=3.0, weighting=weighting))


def test_without_guidance() -> None:
    check_against_naive(PriorSettings(0.3, 0.1, 1.0, guidance_scale=False))


@pytest.mark.parametrize(
    "vae", [{"post_quant": False, "shift_factor": 0.0609}, {"post_quant": True, "shift_factor": None}]
)
def test_sixteen_channels_and_shift(vae: dict) -> None:
    check_against_naive(PriorSettings(0.3, 0.1, 1.0, guidance_scale=3.0), channels=16, **vae)


@pytest.mark.parametrize("levels", [("mid",), ("up0", "up3"), ("mid", "up0", "up1", "up2", "up3")])
def test_levels(levels: tuple[str, ...]) -> None:
    check_against_naive(PriorSettings(0.3, 0.1, 1.0, guidance_scale=3.0, levels=levels))


def test_each_term_alone_is_its_part_of_the_whole() -> None:
    v, noise, text, t = make_inputs()
    unet, vae = tiny_unet(), tiny_vae()
    whole = PriorSettings(0.3, 0.2, 0.7, guidance_scale=5.0)
    prior = LatentDiffusionPrior(unet, vae, scheduler(), settings=whole)
    total, _ = prior.gradient(v, text, timesteps=t, noise=noise)
    parts = [
        prior.with_settings(**{name: 0.0 for name in ("lambda_fm", "lambda_kl", "lambda_lsd") if name != kept})
        for kept in ("lambda_fm", "lambda_kl", "lambda_lsd")
    ]
    summed = sum(part.gradient(v, text, timesteps=t, noise=noise)[0] for part in parts)
    torch.testing.assert_close(total, summed, rtol=1e-4, atol=1e-5)


def test_feature_matching_off_never_touches_the_vae() -> None:
    v, noise, text, t = make_inputs()
    prior = LatentDiffusionPrior(
        tiny_unet(), None, scheduler(), settings=PriorSettings(0.0, 0.1, 1.0, guidance_scale=2.0)
    )
    grad, statistics = prior.gradient(v, text, timesteps=t, noise=noise)
    assert grad.shape == v.shape and float(statistics.fm.sum()) == 0
    with pytest.raises(UsageError, match="vae"):
        prior.with_settings(lambda_fm=1.0).gradient(v, text, timesteps=t, noise=noise)


def test_gradient_mode_is_pure_and_reproducible() -> None:
    v, _, text, _ = make_inputs()
    v.requires_grad_()
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler(), settings=PriorSettings(guidance_scale=2.0))
    before = v.detach().clone()
    first, _ = prior.gradient(v, text, generator=torch.Generator().manual_seed(5))
    second, _ = prior.gradient(v, text, generator=torch.Generator().manual_seed(5))
    assert torch.equal(first, second) and not first.requires_grad and first.grad_fn is None
    assert torch.equal(v.detach(), before) and v.grad is None
    v.backward(gradient=first)
    assert torch.equal(v.grad, first)


def test_networks_get_no_gradient_even_when_they_ask_for_one() -> None:
    v, noise, text, t = make_inputs()
    unet, vae = tiny_unet().requires_grad_(True), tiny_vae().requires_grad_(True)
    prior = LatentDiffusionPrior(unet, vae, scheduler(), settings=PriorSettings(0.3, 0.1, guidance_scale=2.0))
    leaf = v.clone().requires_grad_()
    prior(leaf, text, timesteps=t, noise=noise).loss.backward()
    assert leaf.grad is not None
    assert all(p.grad is None for p in itertools.chain(unet.parameters(), vae.parameters()))
    assert all(p.requires_grad for p in vae.parameters())


def test_text_forms_agree() -> None:
    v, noise, text, t = make_inputs()
    prior = LatentDiffusionPrior(
        tiny_unet(), tiny_vae(), scheduler(), settings=PriorSettings(0.0, 0.0, guidance_scale=4.0)
    )
    one = TextEmbeddings(text.text[:1], text.uncond[:1])
    call = {"timesteps": t, "noise": noise}
    expected, _ = prior.gradient(
        v, TextEmbeddings(text.text[:1].repeat(2, 1, 1), text.uncond[:1].repeat(2, 1, 1)), **call
    )
    for form in (
        one,
        text.select(torch.tensor([0, 0])),
        torch.cat([one.uncond, one.text]),
        torch.cat([one.uncond, one.uncond, one.text, one.text]),
    ):
        torch.testing.assert_close(prior.gradient(v, form, **call)[0], expected)
    views = TextEmbeddings(torch.randn(5, 5, TEXT_WIDTH), torch.randn(5, 5, TEXT_WIDTH))
    picked = views.select(torch.tensor([3, 1]))
    assert torch.equal(picked.text[0], views.text[3]) and torch.equal(picked.uncond[1], views.uncond[1])
    with pytest.raises(ValueError, match="expected embeddings of 1 or 2 rows for 2 latents"):
        prior.gradient(v, views, **call)


def test_timesteps_range_annealing_and_forms() -> None:
    v, noise, text, _ = make_inputs(batch=2)
    prior = LatentDiffusionPrior(
        tiny_unet(),
        tiny_vae(),
        scheduler(),
        settings=PriorSettings(0.0, 0.0, guidance_scale=2.0, timestep_range=(0.1, 0.9), anneal_to=0.2),
    )
    drawn = {0.0: [], 1.0: []}
    for progress, ts in drawn.items():
        for _ in range(40):
            ts += prior.gradient(v, text, progress=progress)[1].timesteps.tolist()
    assert min(drawn[0.0]) >= 100 and 500 < max(drawn[0.0]) <= 900 and len(set(drawn[0.0])) > 20
    assert min(drawn[1.0]) >= 100 and max(drawn[1.0]) <= 200
    as_number = prior.gradient(v, text, timesteps=300, noise=noise)[0]
    as_tensor = prior.gradient(v, text, timesteps=torch.tensor([300, 300]), noise=noise)[0]
    assert torch.equal(as_number, as_tensor)


def test_empty_batch_and_no_grad() -> None:
    v, noise, text, t = make_inputs()
    prior = make_prior()
    with torch.no_grad():
        out = prior(v, text, timesteps=t, noise=noise)
    leaf = v.clone().requires_grad_()
    torch.testing.assert_close(out.loss, prior(leaf, text, timesteps=t, noise=noise).loss.detach())
    assert not out.loss.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_latents(dtype: torch.dtype) -> None:
    v, noise, text, t = make_inputs()
    prior = make_prior()
    half = v.to(dtype)
    expected, _ = prior.gradient(half.float(), text, timesteps=t, noise=noise)
    leaf = half.clone().requires_grad_()
    prior(leaf, text, timesteps=t, noise=noise).loss.backward()
    assert leaf.grad.dtype == dtype
    assert (leaf.grad.float() - expected).norm() < 2e-2 * expected.norm()
    grad, _ = prior.gradient(half, text, timesteps=t, noise=noise)
    assert grad.dtype == torch.float32
    torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-4)


def test_nonfinite_policies_name_the_term() -> None:
    v, noise, text, t = make_inputs()
    v[0, 0, 0, 0] = float("inf")
    prior = make_prior()
    grad, statistics = prior.gradient(v, text, timesteps=t, noise=noise)
    assert not torch.isfinite(grad[0]).all() and torch.isfinite(grad[1]).all()
    assert statistics.read()["nonfinite_lsd"] > 0
    zeroed, statistics = prior.with_settings(nonfinite="zero").gradient(v, text, timesteps=t, noise=noise)
    assert torch.isfinite(zeroed).all()
    numbers = statistics.read()
    assert numbers["nonfinite_lsd"] > 0 and numbers["nonfinite_fm_up0"] > 0
    with pytest.raises(FloatingPointError):
        prior.with_settings(nonfinite="raise").gradient(v, text, timesteps=t, noise=noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latents": torch.randn(2, 3, 8, 8)}, r"latents: expected .*\[B, 4, H, W\]"),
        ({"latents": torch.zeros(2, 4, 8, 8, dtype=torch.int64)}, "latents: expected a floating-point tensor"),
        ({"latents": torch.randn(0, 4, 8, 8)}, "latents: expected at least one sample, got an empty batch"),
        ({"noise": torch.randn(1, 4, 8, 8)}, "noise: expected the latents' shape"),
        ({"timesteps": torch.tensor([1, 2, 3])}, "timesteps: expected 1 or 2 integers"),
        ({"timesteps": 1000}, "timesteps: expected whole numbers from 0 to 999, got 1000"),
        ({"timesteps": torch.tensor([0.5, 0.5])}, "timesteps: expected 1 or 2 integers"),
        ({"text": torch.randn(3, 5, TEXT_WIDTH)}, "text: expected embeddings of 2 or 4 rows"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    v, noise, text, t = make_inputs()
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler(), settings=PriorSettings(guidance_scale=2.0))
    arguments = {"latents": v, "text": text, "timesteps": t, "noise": noise} | change
    with pytest.raises(ValueError, match=message):
        prior.gradient(**arguments)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("guidance", "sideways"),
        ("order", "random"),
        ("prediction", "noise"),
        ("scale", "big"),
        ("weighting", "heavy"),
        ("nonfinite", "ignore"),
        ("timestep_range", (0.9, 0.1)),
        ("anneal_to", 2.0),
        ("noises", 0),
        ("noises", 2.0),
        ("noises", True),
        ("lambda_lsd", float("nan")),
    ],
)
def test_bad_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(UsageError, match=field):
        PriorSettings(**{field: value})
