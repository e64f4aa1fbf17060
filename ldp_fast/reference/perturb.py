"""z_t = α_t v + σ_t ε, the noised latents (paper §3.1, the forward process)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample, widened


def perturb(
    latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, copies: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    """z_t = α_t v + σ_t ε, `copies` times over.

    Args:
        latents: v, [B, C, H, W].
        noise: ε, [B, C, H, W].
        alpha: α_t, [B].
        sigma: σ_t, [B].
        copies: how often the batch is repeated: 2 for classifier-free guidance.
        dtype: of the result; the latents' by default.

    Returns:
        [copies·B, C, H, W] in the latents' memory format.
    """
    compute = compute_dtype(latents, noise)
    noisy = per_sample(alpha, compute) * widened(latents, compute)
    noisy = torch.addcmul(noisy, per_sample(sigma, compute), widened(noise, compute))
    noisy = widened(noisy, dtype or latents.dtype)
    return in_format(noisy if copies == 1 else torch.cat([noisy] * copies), memory_format(latents))
