"""Gradient mode's last step: the gradient of Eq. 4 on v, and what it saw on the way."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from .. import checks
from ..checks import BatchReduction, Coefficient, NonFinite, detached
from ..ops import call
from ..reference import compute_dtype
from . import _signatures

SCALES = ("latent", "literal")


class GradientStatistics(NamedTuple):
    """What `combine_gradients` saw, per sample and on the device: [B] float32 (counts int32).

    Attributes:
        mean: μ of the latents.
        variance: σ² of the latents, biased.
        kl: Eq. 3, as measured, also where it is not finite.
        lsd: ½·mean(w r²); under `nonfinite="zero"` over the elements that were kept.
        norm_lsd: Euclidean norm of the term w r, before λ3 and the batch reduction.
        norm_fm: the same of the feature matching term, before λ1.
        norm_kl: the same of the KL term, before λ2.
        norm_total: Euclidean norm of g.
        nonfinite_lsd: elements of the term that were not finite.
        nonfinite_fm: the same of the feature matching term.
        nonfinite_kl: the same of the KL term.
    """

    mean: Tensor
    variance: Tensor
    kl: Tensor
    lsd: Tensor
    norm_lsd: Tensor
    norm_fm: Tensor
    norm_kl: Tensor
    norm_total: Tensor
    nonfinite_lsd: Tensor
    nonfinite_fm: Tensor
    nonfinite_kl: Tensor


def combine_gradients(
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Coefficient,
    weight: Coefficient,
    *,
    lambda_fm: Coefficient,
    lambda_kl: Coefficient,
    lambda_lsd: Coefficient,
    scale: Literal["latent", "literal"] = "latent",
    batch_reduction: BatchReduction = "mean",
    nonfinite: NonFinite = "propagate",
) -> tuple[Tensor, GradientStatistics]:
    """The whole gradient of Eq. 4 on v from its parts, in one pass, with its statistics.

        g = λ3 · w r  +  λ2 · [μ + (v − μ)(1 − 1/σ²)]  +  λ1 · N · [(1 + α_t) grad_v′ + grad_v]

    divided by B for `batch_reduction="mean"`. `scale="literal"` is Eq. 2-4 as printed: 1/N before the KL term and no N
    before feature matching, whose gradients are then those of the sum-type norm. A λ of 0 switches its term off, even
    one that is not finite.

    Args:
        latents: v  # [B, C, H, W]
        residual: r, of `guided_residual`  # [B, C, H, W]
        grad_v: gradient of each sample's own feature matching loss on v, not divided by the batch: of norm "mean" for
            `scale="latent"`, "sum" for "literal"; None is allowed where `lambda_fm` is the number 0  # [B, C, H, W]
        grad_v_prime: the same on v′, without the factor 1 + α_t  # [B, C, H, W]
        alpha: α_t, float32  # number, [] or [B]
        weight: w(t), float32  # number, [] or [B]
        lambda_fm: λ1; as a tensor it may change inside a captured CUDA graph  # number, [] or [B]
        lambda_kl: λ2  # number, [] or [B]
        lambda_lsd: λ3  # number, [] or [B]
        scale: "latent" makes the paper's λ's commensurate, "literal" is as printed.
        batch_reduction: "mean" divides by B, "sum" does not.
        nonfinite: "propagate"; "zero" replaces the non-finite elements of a term by 0 and counts them; "raise" (this
            synchronises with the host).

    Returns:
        g, float32 (float64 if an input is) in the latents' memory format, without a graph  # [B, C, H, W]
        The statistics, on the device.

    Raises:
        TypeError: a tensor that is not floating; half-precision coefficients.
        ValueError: a shape, device or option that does not fit, or a missing feature matching gradient.
        FloatingPointError: with `nonfinite="raise"`, naming terms and counts.
    """
    op = "combine_gradients"
    gradients = (("grad_v", grad_v), ("grad_v_prime", grad_v_prime))
    key = _signatures.signature(op, latents, residual, grad_v, grad_v_prime, scale, batch_reduction, nonfinite)
    if not _signatures.passed(key):
        checks.latents(op, "latents", latents)
        checks.like(op, "residual", residual, "latents", latents)
        checks.choice(op, "scale", scale, SCALES)
        checks.reductions(op, batch_reduction, nonfinite)
        for name, grad in gradients:
            if grad is not None:
                checks.like(op, name, grad, "latents", latents)
        _signatures.remember(key)
    for name, grad in gradients:
        if grad is None and (isinstance(lambda_fm, Tensor) or lambda_fm != 0):
            raise ValueError(f"{op}: {name}: expected a tensor unless lambda_fm is the number 0, got None")
    dtype = compute_dtype(latents, residual, grad_v, grad_v_prime)
    fm, fm_tensor = checks.scalar_or_coefficients(op, "lambda_fm", lambda_fm, latents, dtype)
    kl, kl_tensor = checks.scalar_or_coefficients(op, "lambda_kl", lambda_kl, latents, dtype)
    lsd, lsd_tensor = checks.scalar_or_coefficients(op, "lambda_lsd", lambda_lsd, latents, dtype)
    g, values, counts = call(
        op,
        detached(latents),
        detached(residual),
        None if grad_v is None else detached(grad_v),
        None if grad_v_prime is None else detached(grad_v_prime),
        checks.coefficients(op, "alpha", alpha, latents),
        checks.coefficients(op, "weight", weight, latents),
        fm,
        kl,
        lsd,
        fm_tensor,
        kl_tensor,
        lsd_tensor,
        scale == "literal",
        batch_reduction == "mean",
        nonfinite == "zero",
    )
    if nonfinite == "raise":
        names = ("the LSD term", "the feature matching term", "the KL term")
        checks.raise_nonfinite(op, dict(zip(names, counts, strict=True)))
    return g, GradientStatistics(*values.unbind(0), *counts.unbind(0))
