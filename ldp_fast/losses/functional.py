"""The operators as functions: arguments are checked, numbers are accepted for coefficients, results are reduced.

Shapes: latents v [B, C, H, W]; coefficients a number, [] or [B]; N = C·H·W. Arithmetic is float32 whatever the
inputs are, also under autocast (float64 if an input is float64; that takes the plain PyTorch implementation on every
device). Latents may be contiguous, channels-last or a slice of a larger batch: these are read in place. An input that
is laid out otherwise than the leading one is copied first. Results are bitwise reproducible. Nothing synchronises with
the host, except `nonfinite="raise"`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .. import checks
from ..checks import BatchReduction, Coefficient, NonFinite, detached
from ..ops import call
from . import _signatures
from .combine_gradients import GradientStatistics, combine_gradients
from .feature_matching import FeatureMatchingStatistics, feature_matching_loss

__all__ = [
    "FeatureMatchingStatistics",
    "GradientStatistics",
    "combine_gradients",
    "feature_matching_loss",
    "guided_residual",
    "latent_kl_loss",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "score_distillation_loss",
]

GUIDANCE = ("from_uncond", "from_text")
ORDERS = ("uncond_first", "text_first")
NEGATIVES = ("by_copy", "by_sample")

# What each prediction type needs besides the network's output.
PREDICTIONS: dict[str, tuple[str, ...]] = {
    "epsilon": (),
    "v_prediction": ("noisy_latents", "alpha", "sigma"),
    "sample": ("noisy_latents", "alpha", "sigma"),
    "flow": ("noisy_latents", "alpha"),
    "sigma": ("noisy_latents", "sigma"),
}


def perturb(
    latents: Tensor,
    noise: Tensor,
    alpha: Coefficient,
    sigma: Coefficient,
    *,
    copies: int = 1,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The noised latents z_t = α_t v + σ_t ε (paper §3.1), written straight into the network's batch and dtype.

    Args:
        latents: v  # [B, C, H, W]
        noise: ε  # [B, C, H, W]
        alpha: α_t = √ᾱ_t, float32  # number, [] or [B]
        sigma: σ_t = √(1 − ᾱ_t), float32  # number, [] or [B]
        copies: how often the batch is repeated; 2 for classifier-free guidance.
        dtype: of the result; None keeps the latents'.

    Returns:
        [copies·B, C, H, W] in the latents' memory format; sample b of copy k is at k·B + b. It carries no gradient:
        Eq. 2 leaves out the network's Jacobian, and `residual_latents` carries what remains of this path, α_t.

    Raises:
        TypeError: a tensor or dtype that is not floating; half-precision coefficients.
        ValueError: a shape or device that does not fit; copies below 1.
    """
    op = "perturb"
    key = _signatures.signature(op, latents, noise, dtype)
    if not _signatures.passed(key):
        checks.latents(op, "latents", latents)
        checks.like(op, "noise", noise, "latents", latents)
        if dtype is not None and dtype not in checks.FLOATING:
            raise TypeError(f"{op}: dtype: expected float16, bfloat16, float32 or float64, got {dtype}")
        _signatures.remember(key)
    if copies < 1:
        raise ValueError(f"{op}: copies: expected at least 1, got {copies}")
    a = checks.coefficients(op, "alpha", alpha, latents)
    s = checks.coefficients(op, "sigma", sigma, latents)
    return call(op, detached(latents), detached(noise), a, s, copies, dtype)


def guided_residual(
    model_output: Tensor,
    noise: Tensor,
    *,
    guidance_scale: Coefficient | None = None,
    guidance: Literal["from_uncond", "from_text"] = "from_uncond",
    order: Literal["uncond_first", "text_first"] = "uncond_first",
    prediction: Literal["epsilon", "v_prediction", "sample", "flow", "sigma"] = "epsilon",
    noisy_latents: Tensor | None = None,
    alpha: Coefficient | None = None,
    sigma: Coefficient | None = None,
) -> Tensor:
    """The noise residual r = ε̂ − ε of Eq. 1, from what the network returned.

    Guidance comes first: e_u + s (e_c − e_u) for `from_uncond`, e_c + s (e_c − e_u) for `from_text`. Then ε̂ is

    * epsilon: out
    * v_prediction: α_t out + σ_t z_t
    * sample: (z_t − α_t out) / σ_t
    * flow: z_t + α_t out, with α = 1 − τ
    * sigma: (z − out) / σ, everything in the units of a host whose noise is added as z = v + σ ε

    Args:
        model_output: the network's output; doubled if and only if there is guidance  # [B or 2B, C, H, W]
        noise: ε  # [B, C, H, W]
        guidance_scale: s, or None for no guidance  # number, [] or [B]
        guidance: from which of the two predictions the guidance starts.
        order: which half of the doubled batch comes first.
        prediction: what the network predicts.
        noisy_latents: z_t; of a batch repeated for guidance the first copy is read, in place  # [K·B, C, H, W]
        alpha: α_t, float32  # number, [] or [B]
        sigma: σ_t, float32  # number, [] or [B]

    Returns:
        r, float32 (float64 if an input is) in the noise's memory format, without a gradient  # [B, C, H, W]

    Raises:
        TypeError: a tensor that is not floating; half-precision coefficients.
        ValueError: a shape, device or option that does not fit, or an argument that the prediction type needs.
    """
    op = "guided_residual"
    guided = guidance_scale is not None
    key = _signatures.signature(op, model_output, noise, guided, guidance, order)
    if not _signatures.passed(key):
        checks.latents(op, "noise", noise)
        checks.choice(op, "guidance", guidance, GUIDANCE)
        checks.choice(op, "order", order, ORDERS)
        batch, wanted = noise.shape[0], "with guidance" if guided else "without guidance"
        checks.network_output(op, model_output, noise, 2 * batch if guided else batch, wanted)
        _signatures.remember(key)
    z, a, s = _conversion(op, prediction, noise, noisy_latents, alpha, sigma)
    g = None if guidance_scale is None else checks.coefficients(op, "guidance_scale", guidance_scale, noise)
    return call(op, detached(model_output), detached(noise), g, z, a, s, guidance, order, prediction)


def perp_neg_residual(
    model_output: Tensor,
    noise: Tensor,
    negative_weights: Tensor,
    *,
    guidance_scale: Coefficient,
    order: Literal["text_first", "uncond_first"] = "text_first",
    negatives: Literal["by_copy", "by_sample"] = "by_copy",
    prediction: Literal["epsilon", "v_prediction", "sample", "flow", "sigma"] = "epsilon",
    noisy_latents: Tensor | None = None,
    alpha: Coefficient | None = None,
    sigma: Coefficient | None = None,
) -> Tensor:
    """The noise residual r = ε̂ − ε with Perp-Neg guidance by K negative prompts (arXiv 2304.04968).

    Of p, u and n_i, the network's outputs for the prompt, the empty prompt and the negatives, per sample,

        u + s (e₊ + Σ_i w_i (e_i − c_i e₊)),   e₊ = p − u,   e_i = n_i − u,   c_i = ⟨e_i, e₊⟩ / max(‖e₊‖², 1e-6)

    takes the place of the guided output, and becomes ε̂ as in `guided_residual`. Combining the outputs first is right
    for every prediction type: ε̂ is an affine function of the output whose slope is one number a sample, the formula
    adds multiples of differences to u, and c_i does not change when e_i and e₊ are scaled alike. (The floor 1e-6 is
    for a prompt that changes nothing, and holds in the units of the output.) With all w_i = 0 this is `from_uncond`.

    Args:
        model_output: p and u in the order of `order`, then the negatives  # [(2 + K)·B, C, H, W]
        noise: ε  # [B, C, H, W]
        negative_weights: w_i, float32, negative to steer away; 0 leaves a negative out  # [B, K]
        guidance_scale: s  # number, [] or [B]
        order: "text_first" [p, u, …] (threestudio) or "uncond_first" [u, p, …] (stable-dreamfusion).
        negatives: "by_copy": n_1 of every sample, then n_2 of every sample (stable-dreamfusion); "by_sample": all
            negatives of the first sample, then those of the second (threestudio). With B = 1 they are the same.
        prediction, noisy_latents, alpha, sigma: as in `guided_residual`.

    Returns:
        r, float32 (float64 if an input is) in the noise's memory format, without a gradient  # [B, C, H, W]
        Weights are read on the device only; the sums run in a fixed order, so that r is bitwise reproducible.

    Raises:
        TypeError: a tensor that is not floating; half-precision coefficients or weights.
        ValueError: a shape, device or option that does not fit, or an argument that the prediction type needs.
    """
    op = "perp_neg_residual"
    key = _signatures.signature(op, model_output, noise, negative_weights, order, negatives)
    if not _signatures.passed(key):
        checks.latents(op, "noise", noise)
        checks.choice(op, "order", order, ORDERS)
        checks.choice(op, "negatives", negatives, NEGATIVES)
        checks.table(op, "negative_weights", negative_weights, "B, K", noise)
        count = negative_weights.shape[1]
        checks.network_output(op, model_output, noise, (2 + count) * noise.shape[0], f"for {count} negatives")
        _signatures.remember(key)
    w = checks.of_table(negative_weights, noise)
    z, a, s = _conversion(op, prediction, noise, noisy_latents, alpha, sigma)
    g = checks.coefficients(op, "guidance_scale", guidance_scale, noise)
    return call(op, detached(model_output), detached(noise), w, g, z, a, s, order, negatives, prediction)[0]


def _conversion(
    op: str,
    prediction: str,
    noise: Tensor,
    noisy_latents: Tensor | None,
    alpha: Coefficient | None,
    sigma: Coefficient | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """z_t, α_t and σ_t as the operators take them; None for what the prediction type does not need."""
    if prediction == "epsilon":
        return None, None, None
    checks.choice(op, "prediction", prediction, tuple(PREDICTIONS))
    given = {"noisy_latents": noisy_latents, "alpha": alpha, "sigma": sigma}
    needs = PREDICTIONS[prediction]
    for name in needs:
        if given[name] is None:
            raise ValueError(f"{op}: {name}: expected a value for prediction={prediction!r}, got None")
    z = a = s = None
    if noisy_latents is not None and "noisy_latents" in needs:
        z = _first_copy(op, noisy_latents, noise)
    if alpha is not None and "alpha" in needs:
        a = checks.coefficients(op, "alpha", alpha, noise)
    if sigma is not None and "sigma" in needs:
        s = checks.coefficients(op, "sigma", sigma, noise)
    return z, a, s


def _first_copy(op: str, noisy_latents: Tensor, noise: Tensor) -> Tensor:
    key = _signatures.signature(f"{op}: z", noisy_latents, noise)
    batch = noise.shape[0]
    if not _signatures.passed(key):
        checks.latents(op, "noisy_latents", noisy_latents)
        rows = noisy_latents.shape[0]
        if noisy_latents.shape[1:] != noise.shape[1:] or (rows % batch if batch else rows):
            sizes = ", ".join(str(size) for size in noise.shape[1:])
            raise ValueError(
                f"{op}: noisy_latents: expected [K·{batch}, {sizes}], got {checks.shape_text(noisy_latents)}"
            )
        checks.same_device(op, "noisy_latents", noisy_latents, "noise", noise)
        _signatures.remember(key)
    return detached(noisy_latents)[:batch]


def residual_latents(latents: Tensor, residual: Tensor, alpha: Coefficient) -> Tensor:
    """The updated latents v′ = v + r, with the derivative 1 + α_t (Eq. 1 → 2).

    Differentiating v′ = v + ε̂(α_t v + σ_t ε) − ε and taking the network's Jacobian as the identity gives 1 + α_t.

    Args:
        latents: v  # [B, C, H, W]
        residual: r, of `guided_residual`  # [B, C, H, W]
        alpha: α_t, float32  # number, [] or [B]

    Returns:
        v′, added in float32, in the latents' dtype and memory format  # [B, C, H, W]
        The latents get (1 + α_t) times the incoming gradient; the residual gets none, even if it requires one. It can
        be differentiated once.

    Raises:
        TypeError: a tensor that is not floating; half-precision coefficients.
        ValueError: a shape or device that does not fit.
        RuntimeError: when differentiated twice.
    """
    op = "residual_latents"
    _check_pair(op, latents, residual)
    return call(op, latents, detached(residual), checks.coefficients(op, "alpha", alpha, latents))


def _check_pair(op: str, latents: Tensor, residual: Tensor, *options: str) -> None:
    """Checks latents and a residual of their shape, and the two options of a loss where there are any."""
    key = _signatures.signature(op, latents, residual, *options)
    if _signatures.passed(key):
        return
    checks.latents(op, "latents", latents)
    checks.like(op, "residual", residual, "latents", latents)
    if options:
        checks.reductions(op, *options)
    _signatures.remember(key)


def latent_kl_loss(
    latents: Tensor, *, batch_reduction: BatchReduction = "mean", nonfinite: NonFinite = "propagate"
) -> Tensor:
    """The KL regulariser L_KL = ½ (μ² + σ² − log σ² + 1) (Eq. 3) on the moments μ, σ² of each sample's elements.

    The gradient is (1/N) [μ + (v − μ)(1 − 1/σ²)]. Below `ldp_fast.reference.KL_VARIANCE_FLOOR` (1e-6) log σ² continues
    along its tangent, so that a constant latent has a finite value and gradient. The moments take two passes: an
    offset far larger than the spread does no harm.

    Args:
        latents: v  # [B, C, H, W]
        batch_reduction: "mean" or "sum" over the samples; an empty batch gives 0.
        nonfinite: "propagate"; "zero": a non-finite sample counts 0, and non-finite elements of the gradient are 0;
            "raise" (this synchronises with the host).

    Returns:
        A scalar, float32 (float64 for float64 latents). It can be differentiated once.

    Raises:
        TypeError: latents that are not floating.
        ValueError: another shape, or an unknown option.
        FloatingPointError: with `nonfinite="raise"`, non-finite elements.
        RuntimeError: when differentiated twice.
    """
    op = "latent_kl_loss"
    key = _signatures.signature(op, latents, batch_reduction, nonfinite)
    if not _signatures.passed(key):
        checks.latents(op, "latents", latents)
        checks.reductions(op, batch_reduction, nonfinite)
        _signatures.remember(key)
    value, _, _, count = call("latent_kl", latents, nonfinite == "zero", nonfinite == "raise")
    if nonfinite == "raise":
        checks.raise_nonfinite(op, {"the KL term": count})
    return _reduce(value, batch_reduction)


def score_distillation_loss(
    latents: Tensor,
    residual: Tensor,
    weight: Coefficient,
    *,
    batch_reduction: BatchReduction = "mean",
    nonfinite: NonFinite = "propagate",
) -> Tensor:
    """Latent score distillation as a loss: its gradient on the latents is w(t) · r, its value ½·mean(w r²).

    The gradient is the hosts' convention and not the derivative of the value, which is there to be logged: the value is
    a mean over the N elements, so that it does not depend on the resolution, while the gradient is w r per element.
    With `batch_reduction="mean"` both are divided by B. The gradient is multiplied by the incoming one, so a GradScaler
    and a factor λ3 do what they should.

    Args:
        latents: v, for its graph only  # [B, C, H, W]
        residual: r, of `guided_residual`; gets no gradient  # [B, C, H, W]
        weight: w(t), float32  # number, [] or [B]
        batch_reduction: "mean" or "sum" over the samples; an empty batch gives 0.
        nonfinite: "propagate"; "zero": non-finite elements of w r count 0 in value and gradient; "raise" (this
            synchronises with the host).

    Returns:
        A scalar, float32 (float64 for a float64 residual). It can be differentiated once.

    Raises:
        TypeError: a tensor that is not floating; half-precision coefficients.
        ValueError: a shape, device or option that does not fit.
        FloatingPointError: with `nonfinite="raise"`, non-finite elements.
        RuntimeError: when differentiated twice.
    """
    op = "score_distillation_loss"
    _check_pair(op, latents, residual, batch_reduction, nonfinite)
    w = checks.coefficients(op, "weight", weight, residual)
    value, count = call("score_distillation", latents, detached(residual), w, nonfinite == "zero", nonfinite == "raise")
    if nonfinite == "raise":
        checks.raise_nonfinite(op, {"the LSD term": count})
    return _reduce(value, batch_reduction)


def _reduce(values: Tensor, batch_reduction: str) -> Tensor:
    batch = values.shape[0]
    # A sum of one is that one: no launch.
    total = values.view(()) if batch == 1 and not torch.compiler.is_compiling() else values.sum()
    return total / batch if batch_reduction == "mean" and batch > 1 else total
