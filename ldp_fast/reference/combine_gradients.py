"""The whole gradient on v from its parts (paper Eq. 2, 3 and 4), with the statistics that a log wants."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, count_nonfinite, in_format, memory_format, per_sample, widened
from .latent_kl import kl_gradient, kl_value, moments

_AXES = (1, 2, 3)
_OF_TERMS = (2, 3, 4)


def combine_gradients(
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    lambda_fm: float,
    lambda_kl: float,
    lambda_lsd: float,
    lambda_fm_tensor: Tensor | None = None,
    lambda_kl_tensor: Tensor | None = None,
    lambda_lsd_tensor: Tensor | None = None,
    literal: bool = False,
    batch_mean: bool = True,
    zero_nonfinite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """g = λ3 w r + λ2 [μ + (v − μ)(1 − 1/σ²)] + λ1 N [(1 + α) grad_v′ + grad_v], divided by B for a batch mean.

    Args:
        latents: v, [B, C, H, W].
        residual: r, [B, C, H, W].
        grad_v: gradient of each sample's own feature matching loss on v, [B, C, H, W], or None for 0.
        grad_v_prime: the same on v′, or None for 0.
        alpha: α_t, [B].
        weight: w(t), [B].
        lambda_fm, lambda_kl, lambda_lsd: λ1, λ2, λ3. A λ of 0 switches its term off, whatever its elements are.
        lambda_fm_tensor, lambda_kl_tensor, lambda_lsd_tensor: [B], further factors, or None.
        literal: the factors N as printed: 1/N for the KL term, 1 for feature matching.
        batch_mean: divide by B.
        zero_nonfinite: non-finite elements of a term become 0.

    Returns:
        g: [B, C, H, W] float32 or float64, in the latents' memory format.
        values: [8, B]: mean, variance, kl, lsd, norm_lsd, norm_fm, norm_kl, norm_total.
        counts: [3, B] int32: the non-finite elements of the terms lsd, fm and kl.
    """
    compute = compute_dtype(latents, residual, grad_v, grad_v_prime)
    batch, elements = latents.shape[0], latents.shape[1] * latents.shape[2] * latents.shape[3]
    v, r = widened(latents, compute), widened(residual, compute)
    mean, variance = moments(v)

    lsd = per_sample(weight, compute) * r
    kl = kl_gradient(v, mean, variance)
    fm = None if grad_v is None else widened(grad_v, compute)
    if grad_v_prime is not None:
        prime = widened(grad_v_prime, compute)
        # (1 + α) grad_v′ without the sum.
        prime = torch.addcmul(prime, per_sample(alpha, compute), prime)
        fm = prime if fm is None else prime + fm
    if fm is None:
        fm = torch.zeros_like(v)
    elif not literal:
        fm = fm * elements
    if literal:
        kl = kl / elements

    terms = torch.stack([lsd, fm, kl])
    counts = count_nonfinite(terms, _OF_TERMS)
    energy = lsd * r
    if zero_nonfinite:
        finite = terms.isfinite()
        energy = energy.where(finite[0], 0)
        terms = terms.where(finite, 0)

    lambdas = ((lambda_lsd, lambda_lsd_tensor), (lambda_fm, lambda_fm_tensor), (lambda_kl, lambda_kl_tensor))
    g: Tensor | None = None
    for term, (number, tensor) in zip(terms.unbind(0), lambdas, strict=True):
        if tensor is not None:
            factor = per_sample(tensor, compute) * number
            weighted = (factor * term).where(factor != 0, 0)
        elif number != 0:
            weighted = term * number
        else:
            continue
        g = weighted if g is None else g + weighted
    if g is None:
        g = torch.zeros_like(v)
    if batch_mean and batch > 1:
        g = g / batch

    values = [mean, variance, kl_value(mean, variance), energy.sum(dim=_AXES) * (0.5 / elements)]
    values += torch.linalg.vector_norm(terms, dim=_OF_TERMS).unbind(0)
    values.append(torch.linalg.vector_norm(g, dim=_AXES))
    return in_format(g, memory_format(latents)), torch.stack(values), counts
