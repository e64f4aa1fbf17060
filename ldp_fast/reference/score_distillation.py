"""Latent score distillation: the gradient field w(t) · r, and a value to log, ½·mean(w r²) (paper Eq. 1, L_LSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample


def score_distillation(residual: Tensor, weight: Tensor, zero_nonfinite: bool = False) -> tuple[Tensor, Tensor]:
    """½·mean(w r²) of every sample.

    Args:
        residual: r, [B, C, H, W].
        weight: w(t), [B].
        zero_nonfinite: elements where w r is not finite count as 0.

    Returns:
        value: [B] float32 or float64; count: [B] int32, the non-finite elements of w r.
    """
    compute = compute_dtype(residual)
    r = residual.to(compute)
    field = per_sample(weight, compute) * r
    finite = field.isfinite()
    product = field * r
    if zero_nonfinite:
        product = product.where(finite, 0)
    return 0.5 * product.mean(dim=(1, 2, 3)), (~finite).sum(dim=(1, 2, 3), dtype=torch.int32)


def score_distillation_backward(
    grad: Tensor, residual: Tensor, weight: Tensor, dtype: torch.dtype, zero_nonfinite: bool = False
) -> Tensor:
    """The gradient field, grad · w r. By convention this is not the derivative of the value.

    Args:
        grad: the incoming gradient of every sample, [B].
        residual: r, [B, C, H, W].
        weight: w(t), [B].
        dtype: of the result, the latents'.
        zero_nonfinite: non-finite elements of w r become 0.

    Returns:
        [B, C, H, W] in the residual's memory format.
    """
    compute = compute_dtype(residual)
    field = per_sample(weight, compute) * residual.to(compute)
    if zero_nonfinite:
        field = field.where(field.isfinite(), 0)
    return in_format((per_sample(grad, compute) * field).to(dtype), memory_format(residual))
