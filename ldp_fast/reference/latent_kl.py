"""The KL regulariser ½ (μ² + σ² − log σ² + 1) on the moments of one sample's elements (paper Eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, count_nonfinite, in_format, memory_format, no_count, per_sample, widened

KL_VARIANCE_FLOOR = 1e-6
"""Below this variance log σ² continues along its tangent, so that a constant latent has a finite value and gradient.

The latents of a diffusion model have σ² near 1; 1e-6 lies far above what float32 makes of a constant latent.
"""


def moments(latents: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and biased variance over the elements of each sample, [B] each.

    Two passes: the squares of the deviations are summed, not those of the values, so nothing cancels.
    """
    mean = latents.mean(dim=(1, 2, 3))
    return mean, (latents - mean.view(-1, 1, 1, 1)).square().mean(dim=(1, 2, 3))


def kl_value(mean: Tensor, variance: Tensor) -> Tensor:
    """½ (μ² + σ² − log σ² + 1) per sample, with the floor on σ²."""
    floored = variance.clamp(min=KL_VARIANCE_FLOOR)
    # Below the floor the tangent adds σ²/floor - 1, above it nothing.
    logarithm = torch.add(floored.log(), variance - floored, alpha=1 / KL_VARIANCE_FLOOR)
    return torch.addcmul(variance - logarithm, mean, mean).add_(1).mul_(0.5)


def kl_gradient(latents: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """N times the gradient of `kl_value`: μ + (v − μ)(1 − 1/σ²)."""
    dtype = latents.dtype
    floored = variance.clamp(min=KL_VARIANCE_FLOOR)
    # Not 1 - 1/σ²: the difference to 1 is exact near σ² = 1, the reciprocal is not.
    slope = (floored - 1) / floored
    mu = per_sample(mean, dtype)
    return torch.addcmul(mu, latents - mu, per_sample(slope, dtype))


def latent_kl(
    latents: Tensor, zero_nonfinite: bool = False, counted: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eq. 3 of every sample.

    Args:
        latents: v, [B, C, H, W].
        zero_nonfinite: a sample with a non-finite value counts as 0.
        counted: whether the count is wanted.

    Returns:
        value, mean, variance: [B] float32 or float64; count: [B] int32, the non-finite elements of the gradient, or
        [0] where nobody wants it.
    """
    v = widened(latents, compute_dtype(latents))
    mean, variance = moments(v)
    value = kl_value(mean, variance)
    count = count_nonfinite(kl_gradient(v, mean, variance), (1, 2, 3)) if counted else no_count(v)
    if zero_nonfinite:
        value = value.where(value.isfinite(), 0)
    return value, mean, variance, count


def latent_kl_backward(
    grad: Tensor, latents: Tensor, mean: Tensor, variance: Tensor, zero_nonfinite: bool = False
) -> Tensor:
    """The gradient of `latent_kl`'s value: grad / N · [μ + (v − μ)(1 − 1/σ²)].

    Args:
        grad: dL/dvalue, [B].
        latents: v, [B, C, H, W].
        mean: μ, [B].
        variance: σ², [B].
        zero_nonfinite: non-finite elements become 0.

    Returns:
        [B, C, H, W] in the latents' dtype and memory format.
    """
    compute = compute_dtype(latents)
    term = kl_gradient(widened(latents, compute), mean, variance)
    if zero_nonfinite:
        term = term.where(term.isfinite(), 0)
    elements = latents.shape[1] * latents.shape[2] * latents.shape[3]
    result = per_sample(grad / elements, compute) * term
    return in_format(widened(result, latents.dtype), memory_format(latents))
