"""A step as Latent-NeRF and as threestudio compute it, with the paper's regularisers as a user would add them.

Written anew from what those code bases do, not from their code; what matters for a time or for the numbers is kept: the
order of the doubled batch, the formula of guidance, w(t), the precision, how the gradient gets onto the latents, and
what is computed without being used. Each is what `LatentDiffusionPrior.gradient` computes under the settings in
`SETTINGS` (tests/benchmarks).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .baselines import HookedDecoder, Problem, Weights, kl_loss, updated_latents
from .models import Models

# Of PriorSettings, beside the λ's and the scale of guidance.
SETTINGS: dict[str, dict[str, Any]] = {
    "Latent-NeRF's way": {"weighting": "latent_nerf", "guidance": "from_uncond", "order": "uncond_first"},
    "threestudio's way": {"weighting": "dreamfusion", "guidance": "from_text", "order": "text_first"},
}
_LOSS_SCALE = 2.0**16


def _half_autocast(device: str) -> AbstractContextManager[Any]:
    """Latent-NeRF's trainer: float16 autocast, which is for GPUs."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()


def latent_nerf_step(models: Models, decoder: HookedDecoder, problem: Problem, weights: Weights) -> Tensor:
    """Latent-NeRF: float32 weights under float16 autocast, [uncond, text], w = √ᾱ (1 − ᾱ), `latents.backward(g)`.

    The regularisers follow as a loss of their own. Its gradients are scaled as a GradScaler would, without which the
    ±1/M of a level vanishes in float16.
    """
    v = problem.latents.detach().requires_grad_()
    cumulative = models.scheduler.alphas_cumprod.to(v.device)[problem.timestep]
    with _half_autocast(v.device.type):
        with torch.no_grad():
            noisy = models.scheduler.add_noise(v, problem.noise, problem.timestep)
            doubled = torch.cat([noisy] * 2)
            prediction = models.unet(doubled, problem.timestep, encoder_hidden_states=models.text).sample
        uncond, text = prediction.chunk(2)
        prediction = uncond + weights.guidance * (text - uncond)
        residual = prediction - problem.noise
        field = weights.lsd * cumulative.sqrt() * (1 - cumulative) * residual
        v.backward(gradient=field, retain_graph=True)
        fm = decoder.loss(v, updated_latents(v, residual, cumulative.sqrt()))
        loss = v.numel() * (weights.fm * fm + weights.kl * kl_loss(v))
        scale = _LOSS_SCALE if v.device.type == "cuda" else 1.0
    (added,) = torch.autograd.grad(scale * loss, v)
    assert v.grad is not None
    return v.grad + added / scale


def threestudio_step(models: Models, decoder: HookedDecoder, problem: Problem, weights: Weights) -> Tensor:
    """threestudio: half-precision weights, [text, uncond], `text + s (text − uncond)`, w = 1 − ᾱ, an MSE to a target.

    Its guidance also decodes the denoised estimate to a picture at every step, whether the picture is used or not (by
    default it is not). That is part of its way, and of its time.
    """
    v = problem.latents.detach().requires_grad_()
    cumulative = models.scheduler.alphas_cumprod.to(v.device)[problem.timestep].view(-1, 1, 1, 1)
    with torch.autocast(v.device.type, enabled=False):
        with torch.no_grad():
            noisy = models.scheduler.add_noise(v, problem.noise, problem.timestep)
            doubled = torch.cat([noisy] * 2).to(models.unet.dtype)
            flipped = models.text.flip(0)
            prediction = models.unet(doubled, problem.timestep, encoder_hidden_states=flipped).sample.to(v.dtype)
            text, uncond = prediction.chunk(2)
            prediction = text + weights.guidance * (text - uncond)
            estimate = (noisy - (1 - cumulative).sqrt() * prediction) / cumulative.sqrt()
            decoder.features(estimate)
        residual = prediction - problem.noise
        gradient = torch.nan_to_num((1 - cumulative) * residual)
        target = (v - gradient).detach()
        distilled = 0.5 * F.mse_loss(v, target, reduction="sum") / len(v)
        fm = decoder.loss(v, updated_latents(v, residual, cumulative.sqrt()))
        loss = weights.lsd * distilled + v.numel() * (weights.fm * fm + weights.kl * kl_loss(v))
    return torch.autograd.grad(loss, v)[0]
