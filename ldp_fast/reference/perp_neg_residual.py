"""r = ε̂ − ε with Perp-Neg guidance (perp-neg.github.io): negatives steer only where they do not oppose the prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample, widened
from .guided_residual import noise_prediction

PERP_NEG_FLOOR = 1e-6
"""Lowest ‖e_pos‖² that is divided by."""


def perp_neg_residual(
    model_output: Tensor,
    noise: Tensor,
    negative_weights: Tensor,
    guidance_scale: Tensor,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    order: str = "text_first",
    negatives: str = "by_copy",
    prediction: str = "epsilon",
) -> tuple[Tensor, Tensor]:
    """r = ε̂ − ε, ε̂ from u + s (e₊ + Σ_i w_i (e_i − c_i e₊)), e₊ = p − u, e_i = n_i − u, c_i = ⟨e_i, e₊⟩ / ‖e₊‖².

    Args:
        model_output: p, u and n_1 … n_K of every sample, [(2 + K)·B, C, H, W].
        noise: ε, [B, C, H, W].
        negative_weights: w_i, [B, K]; 0 leaves a negative out, even one that is not finite.
        guidance_scale: s, [B].
        noisy_latents: z_t, [B, C, H, W] or a repeated batch of which the first B are read.
        alpha: α_t, [B].
        sigma: σ_t, [B].
        order: of the first two copies, "text_first" or "uncond_first".
        negatives: "by_copy": n_1 of every sample, then n_2 of every sample; "by_sample": n_1, n_2 … of one sample.
        prediction: "epsilon", "v_prediction", "sample", "flow" or "sigma".

    Returns:
        r [B, C, H, W], float32 or float64, in the noise's memory format, and c [B, K].
    """
    compute = compute_dtype(model_output, noise, noisy_latents)
    batch, count = negative_weights.shape
    out = widened(model_output, compute)
    first, second, rest = out.tensor_split((batch, 2 * batch))
    uncond, text = (first, second) if order == "uncond_first" else (second, first)
    sizes = rest.shape[1:]
    by_copy = rest.view(batch, count, *sizes).transpose(0, 1) if negatives == "by_sample" else None
    away = (rest.view(count, batch, *sizes) if by_copy is None else by_copy) - uncond  # e_i, [K, B, C, H, W]
    positive = text - uncond
    square = positive.square().sum((1, 2, 3))
    # Not clamp: a NaN must stay one.
    square = torch.where(square < PERP_NEG_FLOOR, PERP_NEG_FLOOR, square)
    projection = (away * positive).sum((2, 3, 4)) / square
    w = widened(negative_weights, compute).t()[..., None, None, None]
    share = torch.addcmul(away, projection[..., None, None, None], positive, value=-1) * w
    # A weight of 0 leaves a negative out, even one that is not finite.
    direction = positive + share.where(w != 0, 0).sum(0)
    guided = uncond + per_sample(guidance_scale, compute) * direction  # with the bits of guided_residual
    noise_hat = noise_prediction(guided, prediction, noisy_latents, alpha, sigma)
    return in_format(noise_hat - widened(noise, compute), memory_format(noise)), projection.t().clone(
        memory_format=torch.contiguous_format
    )
