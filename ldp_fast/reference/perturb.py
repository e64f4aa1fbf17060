"""z_t = α_t v + σ_t ε, the noised latents (paper §3.1, the forward process)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, memory_format, per_sample


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
    noisy = per_sample(alpha, compute) * latents.to(compute) + per_sample(sigma, compute) * noise.to(compute)
    batch, *rest = latents.shape
    out = torch.empty(
        (copies * batch, *rest),
        dtype=dtype or latents.dtype,
        device=latents.device,
        memory_format=memory_format(latents),
    )
    for copy in range(copies):
        out[copy * batch : (copy + 1) * batch].copy_(noisy)
    return out
