"""The formulas as anybody would write them in PyTorch: the truth when given float64, the yardstick in other dtypes.

Written from docs/mathematics.md alone, without a look at `ldp_fast.reference`. Coefficients are cast to the dtype of
the tensors, as eager code does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _column(coefficient: Tensor, like: Tensor) -> Tensor:
    return coefficient.to(like.dtype).view(-1, 1, 1, 1)


def perturb(
    latents: Tensor,
    noise: Tensor,
    alpha: Tensor,
    sigma: Tensor,
    copies: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    noisy = _column(alpha, latents) * latents + _column(sigma, latents) * noise
    return torch.cat([noisy] * copies).to(dtype or noisy.dtype)


def guided_residual(
    model_output: Tensor,
    noise: Tensor,
    guidance_scale: Tensor | None = None,
    guidance: str = "from_uncond",
    order: str = "uncond_first",
    prediction: str = "epsilon",
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    out = model_output
    if guidance_scale is not None:
        uncond, text = out.chunk(2) if order == "uncond_first" else reversed(out.chunk(2))
        scale = _column(guidance_scale, out)
        out = uncond + scale * (text - uncond) if guidance == "from_uncond" else text + scale * (text - uncond)
    return _as_noise(out, noise, prediction, noisy_latents, alpha, sigma) - noise


def _as_noise(
    out: Tensor,
    noise: Tensor,
    prediction: str,
    noisy_latents: Tensor | None,
    alpha: Tensor | None,
    sigma: Tensor | None,
) -> Tensor:
    if noisy_latents is not None and alpha is not None and sigma is not None:
        z, a, s = noisy_latents[: len(noise)], _column(alpha, out), _column(sigma, out)
        return {
            "epsilon": lambda: out,
            "v_prediction": lambda: a * out + s * z,
            "sample": lambda: (z - a * out) / s,
            "flow": lambda: z + a * out,
            "sigma": lambda: (z - out) / s,
        }[prediction]()
    return out


def perp_neg_residual(
    model_output: Tensor,
    noise: Tensor,
    negative_weights: Tensor,
    guidance_scale: Tensor,
    order: str = "text_first",
    negatives: str = "by_copy",
    prediction: str = "epsilon",
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """Sample by sample, each output turned into a noise first: Perp-Neg is defined on noise predictions."""
    batch, count = negative_weights.shape
    result = []
    for b in range(batch):
        rows = [b, batch + b] if order == "text_first" else [batch + b, b]
        rows += [2 * batch + (b * count + i if negatives == "by_sample" else i * batch + b) for i in range(count)]
        own = None if noisy_latents is None else noisy_latents[b : b + 1]
        coefficients = [None if c is None else c[b : b + 1] for c in (alpha, sigma)]
        text, uncond, *rest = (
            _as_noise(model_output[r : r + 1], noise[b : b + 1], prediction, own, *coefficients) for r in rows
        )
        positive = text - uncond
        direction = positive.clone()
        for w, negative in zip(negative_weights[b].to(text.dtype), rest, strict=True):
            against = negative - uncond
            share = (against * positive).sum() / (positive * positive).sum().clamp(min=1e-6)
            direction += w * (against - share * positive)
        result.append(uncond + guidance_scale[b].to(text.dtype) * direction - noise[b : b + 1])
    return torch.cat(result) if result else torch.empty_like(noise)


def residual_latents(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    """The one-line oracle for (1 + α): the right value, and the right derivative through autograd."""
    a = _column(alpha, latents)
    return (1 + a) * latents - (a * latents).detach() + residual.detach()


def latent_kl_loss(latents: Tensor, batch_reduction: str = "mean") -> Tensor:
    flat = latents.flatten(1)
    mean, variance = flat.mean(1), flat.var(1, unbiased=False)
    return getattr(0.5 * (mean**2 + variance - variance.log() + 1), batch_reduction)()


def score_distillation_loss(latents: Tensor, residual: Tensor, weight: Tensor, batch_reduction: str = "mean") -> Tensor:
    """The value; the gradient is `weight * residual`, which `score_distillation_gradient` gives."""
    value = 0.5 * (_column(weight, residual) * residual**2).flatten(1).mean(1)
    return getattr(value, batch_reduction)()


def score_distillation_gradient(
    latents: Tensor, residual: Tensor, weight: Tensor, batch_reduction: str = "mean"
) -> Tensor:
    field = _column(weight, residual) * residual
    return field / len(field) if batch_reduction == "mean" else field


def combine_terms(
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    scale: str = "latent",
) -> dict[str, Tensor]:
    """The three terms of Eq. 2-4 before the λ's: lsd, fm, kl."""
    elements = latents[0].numel() if len(latents) else 1
    flat = latents.flatten(1)
    mean, variance = flat.mean(1), flat.var(1, unbiased=False)
    kl = _column(mean, latents) + (latents - _column(mean, latents)) * (1 - 1 / _column(variance, latents))
    fm = torch.zeros_like(latents)
    if grad_v is not None and grad_v_prime is not None:
        fm = (1 + _column(alpha, latents)) * grad_v_prime + grad_v
    lsd = _column(weight, latents) * residual
    if scale == "literal":
        return {"lsd": lsd, "fm": fm, "kl": kl / elements}
    return {"lsd": lsd, "fm": elements * fm, "kl": kl}


def combine_terms_weighted(
    terms: dict[str, Tensor], lambda_fm: float, lambda_kl: float, lambda_lsd: float, batch_reduction: str = "mean"
) -> Tensor:
    g = lambda_lsd * terms["lsd"] + lambda_kl * terms["kl"] + lambda_fm * terms["fm"]
    return g / max(len(g), 1) if batch_reduction == "mean" else g


def combine_gradients(
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    scale: str = "latent",
    **lambdas: Any,
) -> Tensor:
    terms = combine_terms(latents, residual, grad_v, grad_v_prime, alpha, weight, scale)
    return combine_terms_weighted(terms, **lambdas)
