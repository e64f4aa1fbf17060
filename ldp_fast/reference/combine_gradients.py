"""The whole gradient on v from its parts (paper Eq. 2, 3 and 4), with the statistics that a log wants."""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample
from .latent_kl import kl_gradient, kl_value, moments

_AXES = (1, 2, 3)


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
    batch, elements = latents.shape[0], latents[0:1].shape[1:].numel()
    v, r = latents.to(compute), residual.to(compute)
    mean, variance = moments(v)

    lsd = per_sample(weight, compute) * r
    kl = kl_gradient(v, mean, variance) * (1 / elements if literal else 1)
    fm = torch.zeros_like(v)
    if grad_v_prime is not None:
        fm = (1 + per_sample(alpha, compute)) * grad_v_prime.to(compute)
    if grad_v is not None:
        fm = fm + grad_v.to(compute)
    fm = fm * (1 if literal else elements)

    terms = [lsd, fm, kl]
    counts = torch.stack([(~term.isfinite()).sum(dim=_AXES, dtype=torch.int32) for term in terms])
    energy = lsd * r
    if zero_nonfinite:
        energy = energy.where(lsd.isfinite(), 0)
        terms = [term.where(term.isfinite(), 0) for term in terms]

    lambdas = [(lambda_lsd, lambda_lsd_tensor), (lambda_fm, lambda_fm_tensor), (lambda_kl, lambda_kl_tensor)]
    g = torch.zeros_like(v)
    for term, (number, tensor) in zip(terms, lambdas, strict=True):
        factor = torch.full((batch,), number, dtype=compute, device=v.device)
        factor = per_sample(factor if tensor is None else factor * tensor, compute)
        g = g + (factor * term).where(factor != 0, 0)
    if batch_mean:
        g = g / max(batch, 1)

    norms = [term.square().sum(dim=_AXES).sqrt() for term in (*terms, g)]
    values = torch.stack([mean, variance, kl_value(mean, variance), 0.5 * energy.mean(dim=_AXES), *norms])
    return in_format(g, memory_format(latents)), values, counts
