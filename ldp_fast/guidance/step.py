"""One evaluation of the frozen UNet: what both modes, and every scale, are computed from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..losses.functional import guided_residual, perturb
from .check import bare, check_hidden, wanted_by
from .inputs import (
    Timesteps,
    as_timesteps,
    check_generator,
    check_latents,
    check_noise,
    check_text,
    conditions,
    draw_noise,
    mean_over_noises,
)
from .schedule import TimestepSampler
from .terms import Step
from .text import TextEmbeddings, repeated

if TYPE_CHECKING:
    from .prior import LatentDiffusionPrior


@torch.no_grad()
def evaluate(
    prior: LatentDiffusionPrior,
    latents: torch.Tensor,
    text: TextEmbeddings | torch.Tensor,
    timesteps: Timesteps | None,
    noise: torch.Tensor | None,
    generator: torch.Generator | None,
    progress: float,
) -> Step:
    """Draws what is not given, then runs the UNet."""
    s = prior.settings
    check_text(text)
    check_generator(generator)
    check_latents(latents, prior.unet, prior.device)
    schedule = prior.schedule
    batch, device, outside = len(latents), latents.device, None
    if timesteps is None:
        sampler = TimestepSampler(len(schedule), *s.timestep_range, s.anneal_to)
        timesteps = sampler.sample(batch, device, generator, progress)
    else:
        timesteps = as_timesteps(timesteps, batch, device, len(schedule))
        timesteps, outside = schedule.inside(timesteps, s.prediction)
    if noise is None:
        noise = draw_noise(latents, s.noises, generator)
    else:
        check_noise(noise, latents, s.noises)
    schedule = schedule.to(device)
    alpha, sigma = schedule.gather(timesteps)
    weight = schedule.weight(timesteps, s.weighting)
    residual = _residual(prior, latents, text, schedule.network_time(timesteps), noise, alpha, sigma)
    return Step(latents, residual, alpha, weight, timesteps, outside)


def _residual(
    prior: LatentDiffusionPrior,
    latents: torch.Tensor,
    text: TextEmbeddings | torch.Tensor,
    time: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
) -> torch.Tensor:
    """r = ε̂ − ε: noising, the UNet, guidance; of several noises the mean."""
    s, scale, dtype = prior.settings, prior.guidance_scale, prior.dtype
    copies, k = 1 if scale is None else 2, s.noises
    check_hidden(bare(prior.unet))
    if k > 1:
        text = repeated(text, k, copies, len(latents))
        latents, time, alpha, sigma = (torch.cat([x] * k) for x in (latents, time, alpha, sigma))
    batch = len(latents)
    states, extra = conditions(
        text, batch, copies, latents.shape[-2:], s.order, dtype, wanted_by(prior.unet), prior.time_factor
    )
    noisy = perturb(latents, noise, alpha, sigma, copies=copies, dtype=dtype)
    output = prior.unet(noisy, time.repeat(copies), encoder_hidden_states=states, **extra)
    output = output.sample if hasattr(output, "sample") else output[0] if isinstance(output, tuple) else output
    prediction: Any = s.prediction or prior.schedule.prediction
    each = guided_residual(
        output,
        noise,
        guidance_scale=scale,
        guidance=s.guidance,
        order=s.order,
        prediction=prediction,
        # Not the network's copy, which is rounded to its dtype.
        noisy_latents=None if prediction == "epsilon" else perturb(latents, noise, alpha, sigma, dtype=noise.dtype),
        alpha=None if prediction == "epsilon" else alpha,
        sigma=None if prediction == "epsilon" else sigma,
    )
    return mean_over_noises(each, k)
