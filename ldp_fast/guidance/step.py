"""One evaluation of the frozen networks: what both modes, and every scale, are computed from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from ..losses.functional import guided_residual, perturb, residual_latents
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
)
from .presets import PriorSettings
from .schedule import TimestepSampler
from .text import TextEmbeddings

if TYPE_CHECKING:
    from .prior import LatentDiffusionPrior


@dataclasses.dataclass(frozen=True)
class Step:
    """What the networks gave for v, t and ε.

    Attributes:
        latents: v, `[B, C, H, W]`.
        residual: r = ε̂ − ε.
        alpha: α_t, `[B]`.
        weight: w(t), `[B]`.
        timesteps: t, `[B]`.
        grad_v: gradient of each sample's feature matching on v; None without feature matching.
        grad_v_prime: the same on v′, without the factor 1 + α_t.
        fm_levels: L_FM by level and sample, `[L, B]`; empty without feature matching.
        fm_nonfinite: non-finite differences, the same.
        outside: which t were clamped, see `PriorStatistics`.
    """

    latents: torch.Tensor
    residual: torch.Tensor
    alpha: torch.Tensor
    weight: torch.Tensor
    timesteps: torch.Tensor
    grad_v: torch.Tensor | None
    grad_v_prime: torch.Tensor | None
    fm_levels: torch.Tensor
    fm_nonfinite: torch.Tensor
    outside: torch.Tensor | None = None

    @torch.no_grad()
    def balance(self, settings: PriorSettings) -> torch.Tensor | float:
        """What λ1 is multiplied by: 0 without feature matching, 1 on the scales `latent` and `literal`.

        On `balanced` ‖w r‖ / (L ‖N·dL_FM/dv‖) of each sample, `[B]`, L levels: λ1 / L is then the ratio to score
        distillation.
        """
        if self.grad_v is None or self.grad_v_prime is None:
            return 0.0
        if settings.scale != "balanced":
            return 1.0
        matching = self.grad_v + (1 + self.alpha)[:, None, None, None] * self.grad_v_prime
        distillation = self.weight[:, None, None, None] * self.residual
        if settings.nonfinite == "zero":
            matching, distillation = (torch.nan_to_num(x, 0.0, 0.0, 0.0) for x in (matching, distillation))
        size = matching.flatten(1).norm(dim=1) * (matching[0].numel() * len(self.fm_levels))
        ratio = distillation.flatten(1).norm(dim=1) / size.clamp(min=torch.finfo(size.dtype).tiny)
        return torch.where(size == 0, torch.zeros_like(ratio), ratio)


@torch.no_grad()
def evaluate(
    prior: LatentDiffusionPrior,
    latents: torch.Tensor,
    text: TextEmbeddings | torch.Tensor,
    timesteps: Timesteps | None,
    noise: torch.Tensor | None,
    generator: torch.Generator | None,
    progress: float,
    *,
    gradients: bool = True,
) -> Step:
    """Draws what is not given, then runs the UNet and, where λ1 is not 0, the decoder."""
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
        noise = draw_noise(latents, generator)
    else:
        check_noise(noise, latents)
    schedule = schedule.to(device)
    alpha, sigma = schedule.gather(timesteps)
    weight = schedule.weight(timesteps, s.weighting)
    residual = _residual(prior, latents, text, schedule.network_time(timesteps), noise, alpha, sigma)
    grad_v = grad_v_prime = None
    levels = nonfinite = torch.zeros(0, batch, device=device)
    if s.lambda_fm != 0 and batch > 0:
        _, grad_v, grad_v_prime, found = prior.decoder.feature_matching(
            latents,
            residual_latents(latents.to(residual.dtype), residual, alpha),
            norm="sum" if s.scale == "literal" else "mean",
            batch_reduction="sum",
            nonfinite=s.nonfinite,
            gradients=gradients,
            return_statistics=True,
        )
        levels, nonfinite = found.level_values, found.nonfinite
    return Step(latents, residual, alpha, weight, timesteps, grad_v, grad_v_prime, levels, nonfinite, outside)


def _residual(
    prior: LatentDiffusionPrior,
    latents: torch.Tensor,
    text: TextEmbeddings | torch.Tensor,
    time: torch.Tensor,
    noise: torch.Tensor,
    alpha: torch.Tensor,
    sigma: torch.Tensor,
) -> torch.Tensor:
    """r = ε̂ − ε: noising, the UNet, guidance."""
    s, scale, batch, dtype = prior.settings, prior.guidance_scale, len(latents), prior.dtype
    copies = 1 if scale is None else 2
    check_hidden(bare(prior.unet))
    states, extra = conditions(
        text, batch, copies, latents.shape[-2:], s.order, dtype, wanted_by(prior.unet), prior.time_factor
    )
    noisy = perturb(latents, noise, alpha, sigma, copies=copies, dtype=dtype)
    output = prior.unet(noisy, time.repeat(copies), encoder_hidden_states=states, **extra)
    output = output.sample if hasattr(output, "sample") else output[0] if isinstance(output, tuple) else output
    prediction: Any = s.prediction or prior.schedule.prediction
    return guided_residual(
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
