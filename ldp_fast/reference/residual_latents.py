"""v′ = v + r with the derivative 1 + α_t (paper Eq. 2)."""

from __future__ import annotations

from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample, widened


def residual_latents(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """v′ = v + r.

    Args:
        latents: v, [B, C, H, W].
        residual: r, [B, C, H, W].
        alpha: α_t, [B]; only the backward needs it.

    Returns:
        [B, C, H, W] in the latents' dtype and memory format.
    """
    compute = compute_dtype(latents, residual)
    updated = widened(latents, compute) + widened(residual, compute)
    return in_format(widened(updated, latents.dtype), memory_format(latents))


def residual_latents_backward(grad: Tensor, alpha: Tensor) -> Tensor:
    """(1 + α_t) · grad: the derivative of v + ε̂(α_t v + σ_t ε) − ε with the identity for the network's Jacobian.

    Args:
        grad: dL/dv′, [B, C, H, W].
        alpha: α_t, [B].

    Returns:
        dL/dv, [B, C, H, W] in the dtype and memory format of `grad`.
    """
    compute = compute_dtype(grad)
    scaled = (1 + per_sample(alpha, compute)) * widened(grad, compute)
    return in_format(widened(scaled, grad.dtype), memory_format(grad))
