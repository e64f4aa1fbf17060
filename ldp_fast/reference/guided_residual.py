"""From the network's output to the noise residual r = ε̂ − ε (paper Eq. 1): guidance, prediction type, difference."""

from __future__ import annotations

from torch import Tensor

from ._common import compute_dtype, in_format, memory_format, per_sample, widened


def guided_residual(
    model_output: Tensor,
    noise: Tensor,
    guidance_scale: Tensor | None = None,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    guidance: str = "from_uncond",
    order: str = "uncond_first",
    prediction: str = "epsilon",
) -> Tensor:
    """r = ε̂ − ε.

    Args:
        model_output: the network's output, [K·B, C, H, W]; K = 1 without guidance, 2 with.
        noise: ε, [B, C, H, W].
        guidance_scale: s, [B], or None for no guidance.
        noisy_latents: z_t, [B, C, H, W] or a batch [K·B, C, H, W] of which the first B are read.
        alpha: α_t, [B].
        sigma: σ_t, [B].
        guidance: "from_uncond": e_u + s (e_c − e_u); "from_text": e_c + s (e_c − e_u).
        order: "uncond_first" or "text_first".
        prediction: "epsilon", "v_prediction", "sample", "flow" or "sigma".

    Returns:
        [B, C, H, W], float32 or float64, in the noise's memory format.
    """
    compute = compute_dtype(model_output, noise, noisy_latents)
    out = widened(model_output, compute)
    if guidance_scale is not None:
        first, second = out.tensor_split(2)
        uncond, text = (first, second) if order == "uncond_first" else (second, first)
        start = uncond if guidance == "from_uncond" else text
        # No addcmul here and below: it rounds once or twice, as the processor has it, and csrc/latents twice.
        out = start + per_sample(guidance_scale, compute) * (text - uncond)
    noise_hat = noise_prediction(out, prediction, noisy_latents, alpha, sigma)
    return in_format(noise_hat - widened(noise, compute), memory_format(noise))


def noise_prediction(
    out: Tensor, prediction: str, noisy_latents: Tensor | None, alpha: Tensor | None, sigma: Tensor | None
) -> Tensor:
    """ε̂ from what the network predicted, after guidance; coefficients [B]."""
    if prediction == "epsilon":
        return out
    assert noisy_latents is not None
    noisy = widened(noisy_latents[: out.shape[0]], out.dtype)
    a = None if alpha is None else per_sample(alpha, out.dtype)
    s = None if sigma is None else per_sample(sigma, out.dtype)
    if prediction == "v_prediction":
        assert a is not None and s is not None
        return a * out + s * noisy
    if prediction == "flow":
        assert a is not None
        return noisy + a * out
    if prediction == "sample":
        assert a is not None and s is not None
        return (noisy - a * out) / s
    assert s is not None
    return (noisy - out) / s
