"""Several noises a sample: r is the mean of what each of them gives alone, whatever the rest of a step is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..support.models import TEXT_WIDTH, scheduler, tiny_unet
from .steps import fixed, make

K, B = 3, 2


def assert_mean(prior: LatentDiffusionPrior, latents: torch.Tensor, text: Any) -> None:
    """r of a step with K noises is the mean of r of K steps with one each, which are not alike."""
    call = fixed(latents, noises=K)
    t, noise, alone = call["timesteps"], call["noise"], prior.with_settings(noises=1)
    each = [alone._evaluate(latents, text, t, part, None, 0.0).residual for part in noise.split(B)]
    assert not torch.allclose(each[0], each[1], atol=0.1)
    found = prior._evaluate(latents, text, t, noise, None, 0.0).residual
    torch.testing.assert_close(found, torch.stack(each).mean(0), rtol=1e-4, atol=1e-5)


def embeddings(rows: int, *, pooled: bool = False) -> TextEmbeddings:
    """Of `rows` prompts; `pooled` ones are SDXL's, of two encoders."""
    generator = torch.Generator().manual_seed(5)
    width = 2 * TEXT_WIDTH if pooled else TEXT_WIDTH
    text, uncond = (torch.randn(rows, 5, width, generator=generator) for _ in range(2))
    both = [torch.randn(rows, TEXT_WIDTH, generator=generator) for _ in range(2)] if pooled else [None, None]
    return TextEmbeddings(text, uncond, *both)


def tensor(rows: int) -> torch.Tensor:
    """`rows` prompts of either copy, as one tensor."""
    found = embeddings(rows)
    return torch.cat([found.uncond, found.text])


@pytest.mark.parametrize("text", [embeddings(1), embeddings(B), tensor(1), tensor(B)], ids=["1", "B", "[2]", "[2B]"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("order", ["uncond_first", "text_first"])
def test_the_mean_of_single_noises(text: Any, prediction: str, order: str) -> None:
    prior, latents, _ = make(prediction=prediction, order=order, noises=K)
    assert_mean(prior, latents, text)


def test_sdxl() -> None:
    """Its pooled embeddings and sizes are repeated as well."""
    settings = PriorSettings(lambda_fm=0.0, guidance_scale=3.0, noises=K)
    prior = LatentDiffusionPrior(tiny_unet(sdxl=True), None, scheduler(), settings=settings)
    latents = torch.randn(B, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert_mean(prior, latents, embeddings(B, pooled=True))


def test_without_guidance() -> None:
    assert_mean(*make(guidance_scale=False, noises=K))


def test_both_modes_follow_the_mean() -> None:
    """Feature matching moves along the mean, so the whole gradient is another than the mean of the gradients."""
    prior, latents, text = make(noises=K, scale="balanced")
    call = fixed(latents, noises=K)
    gradient, statistics = prior.gradient(latents, text, **call)
    leaf = latents.clone().requires_grad_()
    prior(leaf, text, **call).loss.backward()
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-5, atol=1e-6)
    assert statistics.timesteps.shape == (B,) and statistics.terms["lsd"].shape == (B,)


def test_the_variance_is_smaller() -> None:
    """Of what different noises give for one v and one t, nearly by K: the tiny network's answers are independent."""
    spread = {}
    for noises in (1, 4):
        prior, latents, text = make(lambda_fm=0.0, lambda_kl=0.0, noises=noises)
        generator = torch.Generator().manual_seed(1)
        found = [prior.gradient(latents, text, timesteps=500, generator=generator)[0] for _ in range(48)]
        spread[noises] = float(torch.stack(found).var(0).mean())
    assert 2.8 < spread[1] / spread[4] < 5.6


def test_what_is_drawn() -> None:
    """t first and then all ε at once: with one noise the numbers of a release that did not know several."""
    for noises in (1, 3):
        prior, latents, text = make(noises=noises)
        drawn = prior.gradient(latents, text, generator=torch.Generator().manual_seed(4))[0]
        generator = torch.Generator().manual_seed(4)
        t = torch.randint(20, 981, (B,), generator=generator)
        noise = torch.randn(noises * B, 4, 8, 8, generator=generator)
        assert torch.equal(drawn, prior.gradient(latents, text, timesteps=t, noise=noise)[0])


@pytest.mark.parametrize("noises", [1, 3])
def test_noise_of_another_shape_is_refused(noises: int) -> None:
    prior, latents, text = make(noises=noises)
    shape = "the latents' shape [2, 4, 8, 8]" if noises == 1 else "3 of the latents' shape, [6, 4, 8, 8]"
    for wrong in (torch.zeros(4, 4, 8, 8), torch.zeros(3, 2, 4, 8, 8), torch.zeros(6, 4, 8, 7)):
        with pytest.raises(ValueError, match="noise: expected") as caught:
            prior.gradient(latents, text, timesteps=3, noise=wrong)
        assert shape in str(caught.value) and str(list(wrong.shape)) in str(caught.value)


def test_text_of_another_number_of_rows_is_refused() -> None:
    prior, latents, _ = make(noises=K)
    for wrong in (embeddings(3), tensor(3)):
        with pytest.raises(ValueError, match=r"expected embeddings of .* for 2 latents"):
            prior.gradient(latents, wrong, timesteps=3)
    for shape in ((2, TEXT_WIDTH), ()):
        with pytest.raises(ValueError, match="expected embeddings of shape") as caught:
            prior.gradient(latents, torch.zeros(shape), timesteps=3)
        assert str(caught.value).endswith(f"got {list(shape)}")
