"""Latent score distillation: the gradient field w(t) · r, and a value to log, ½·mean(w r²) (paper Eq. 1, L_LSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, count_nonfinite, in_format, memory_format, no_count, per_sample, widened


def score_distillation(
    residual: Tensor, weight: Tensor, zero_nonfinite: bool = False, counted: bool = True
) -> tuple[Tensor, Tensor]:
    """½·mean(w r²) of every sample.

    Args:
        residual: r, [B, C, H, W].
        weight: w(t), [B].
        zero_nonfinite: elements where w r is not finite count as 0.
        counted: whether the count is wanted.

    Returns:
        value: [B] float32 or float64; count: [B] int32, the non-finite elements of w r, or [0] where nobody wants it.
    """
    compute = compute_dtype(residual)
    r = widened(residual, compute)
    field = per_sample(weight, compute) * r
    product = field * r
    if zero_nonfinite:
        product = product.where(field.isfinite(), 0)
    elements = r.shape[1] * r.shape[2] * r.shape[3]
    count = count_nonfinite(field, (1, 2, 3)) if counted else no_count(residual)
    return product.sum(dim=(1, 2, 3)) * (0.5 / elements), count


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
    field = per_sample(weight, compute) * widened(residual, compute)
    if zero_nonfinite:
        field = field.where(field.isfinite(), 0)
    return in_format(widened(per_sample(grad, compute) * field, dtype), memory_format(residual))
