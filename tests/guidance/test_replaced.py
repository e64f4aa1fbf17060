"""A VAE or a scheduler that is put in the place of another after the first step is the one that the next step uses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior

from ..support.models import tiny_vae
from .steps import fixed, make


def other_vae() -> torch.nn.Module:
    vae = tiny_vae()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(1.5)
    return vae


def fresh(prior: LatentDiffusionPrior) -> LatentDiffusionPrior:
    return LatentDiffusionPrior(prior.unet, prior.vae, prior.scheduler, settings=prior.settings)


def gradient(prior: LatentDiffusionPrior, latents: torch.Tensor, text: Any) -> torch.Tensor:
    return prior.gradient(latents, text, **fixed(latents))[0]


def test_another_vae() -> None:
    prior, latents, text = make(lambda_lsd=0.0, lambda_kl=0.0)
    before, decoder = gradient(prior, latents, text), prior.decoder
    assert prior.decoder is decoder  # made once
    prior.vae = other_vae()
    after = gradient(prior, latents, text)
    assert torch.equal(after, gradient(fresh(prior), latents, text))
    assert (after - before).norm() > 0.1 * before.norm()
    assert prior.with_settings(lambda_kl=0.5).decoder is prior.decoder is not decoder
    prior.vae = None
    with pytest.raises(UsageError, match=r"vae: feature matching .* needs one; got None"):
        gradient(prior, latents, text)


def test_a_decoder_that_was_handed_over_is_kept() -> None:
    prior, latents, text = make(lambda_lsd=0.0, lambda_kl=0.0)
    handed = FrozenDecoder(other_vae(), prior.settings.levels)
    given = LatentDiffusionPrior(prior.unet, prior.vae, prior.scheduler, settings=prior.settings, decoder=handed)
    before = gradient(given, latents, text)
    given.vae = tiny_vae()
    assert given.decoder is handed and torch.equal(gradient(given, latents, text), before)
    assert not torch.equal(before, gradient(prior, latents, text))


@pytest.mark.parametrize("kind", ["scheduler", "configuration", "table"])
def test_another_schedule(kind: str) -> None:
    prior, latents, text = make(lambda_fm=0.0)
    before, schedule = gradient(prior, latents, text), prior.schedule
    assert prior.schedule is schedule is prior.with_settings(lambda_kl=1.0).schedule  # read once
    linear = DDIMScheduler(beta_schedule="linear")
    if kind == "scheduler":
        prior.scheduler = linear
    elif kind == "table":
        prior.scheduler.alphas_cumprod = linear.alphas_cumprod
    else:
        prior.scheduler.register_to_config(prediction_type="v_prediction")
    after = gradient(prior, latents, text)
    assert torch.equal(after, gradient(fresh(prior), latents, text))
    assert (after - before).norm() > 1e-2 * before.norm()
    t = torch.tensor([300])
    if kind != "configuration":
        torch.testing.assert_close(prior.schedule.gather(t)[0], linear.alphas_cumprod[t].double().sqrt().float())


def test_a_shift_that_the_scheduler_does_not_follow_is_refused_when_it_is_used() -> None:
    """diffusers reads the shift once, when it makes the scheduler: a later configuration is not what it noises with."""
    prior, latents, text = make(lambda_fm=0.0)
    prior.scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    before = gradient(prior, latents, text)
    prior.scheduler.register_to_config(shift=3.0)
    with pytest.raises(UsageError, match=r"expected the shift of its configuration, 3\.0 .*; got 1\.0"):
        gradient(prior, latents, text)
    prior.scheduler = FlowMatchEulerDiscreteScheduler.from_config(prior.scheduler.config)
    after = gradient(prior, latents, text)
    assert (after - before).norm() > 1e-2 * before.norm()
    assert torch.equal(after, gradient(fresh(prior), latents, text))


def test_a_scheduler_without_noise_levels_is_refused_when_it_is_used() -> None:
    prior, latents, text = make()
    prior.scheduler = object()
    with pytest.raises((TypeError, UsageError), match="scheduler"):
        gradient(prior, latents, text)


def test_a_captured_step_keeps_what_it_was_captured_with() -> None:
    prior, latents, text = make(lambda_fm=0.0)
    step = prior.capture(latents, text)
    before = step(latents, **fixed(latents), clone=True)[0]
    prior.scheduler = DDIMScheduler(beta_schedule="linear")
    assert torch.equal(step(latents, **fixed(latents))[0], before)
    assert not torch.equal(gradient(prior, latents, text), before)


def test_settings_share_what_is_there_now() -> None:
    prior, latents, text = make()
    prior.vae, prior.scheduler = other_vae(), copy.deepcopy(prior.scheduler)
    other = prior.with_settings(levels=("up1",))
    assert other.vae is prior.vae and other.decoder.levels == ("up1",)
    assert torch.equal(gradient(other, latents, text), gradient(fresh(other), latents, text))
