"""r = ε̂ − ε: classifier-free guidance, the conversion of the prediction type and the difference, in one pass.

Reads the network's output (both halves with guidance), ε, and z_t where the prediction type needs it; writes r in
float32. What is not needed is not read: the variants are compile-time constants.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._device import load_float
from ._host import STREAM, ordered_like, sample_size, stream_grid
from ._launch import launch


@triton.jit
def noise_prediction(
    prediction, noisy_latents, alpha, sigma, sample, start, offsets, mask, noisy_stride, PREDICTION: tl.constexpr
):
    """ε̂ from what the network predicted, after guidance; z_t is read where the prediction type needs it."""
    if PREDICTION != "epsilon":
        noisy = load_float(noisy_latents + sample * noisy_stride + start, offsets, mask)
        if PREDICTION == "v_prediction":
            prediction = tl.load(alpha + sample) * prediction + tl.load(sigma + sample) * noisy
        elif PREDICTION == "flow":
            prediction = noisy + tl.load(alpha + sample) * prediction
        elif PREDICTION == "sample":
            prediction = tl.div_rn(noisy - tl.load(alpha + sample) * prediction, tl.load(sigma + sample))
        else:
            tl.static_assert(PREDICTION == "sigma")
            prediction = tl.div_rn(noisy - prediction, tl.load(sigma + sample))
    return prediction


@triton.jit(do_not_specialize=["blocks", "batch"])
def guided_residual_kernel(
    out,  # [batch, size] float32
    model_output,  # [batch, size], or [2 * batch, size] with guidance
    noise,  # [batch, size]
    guidance_scale,  # [batch] float32, or None
    noisy_latents,  # [batch or more, size], or None
    alpha,  # [batch] float32, or None
    sigma,  # [batch] float32, or None
    size,
    blocks,  # per sample
    batch,
    out_stride,  # between samples, in elements
    model_stride,
    noise_stride,
    noisy_stride,
    GUIDED: tl.constexpr,
    FROM_TEXT: tl.constexpr,
    TEXT_FIRST: tl.constexpr,
    PREDICTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start

    prediction = load_float(model_output + sample * model_stride + start, offsets, mask)
    if GUIDED:
        second = load_float(model_output + (sample + tl.cast(batch, tl.int64)) * model_stride + start, offsets, mask)
        text = prediction if TEXT_FIRST else second
        uncond = second if TEXT_FIRST else prediction
        origin = text if FROM_TEXT else uncond
        prediction = origin + tl.load(guidance_scale + sample) * (text - uncond)

    prediction = noise_prediction(
        prediction, noisy_latents, alpha, sigma, sample, start, offsets, mask, noisy_stride, PREDICTION
    )
    e = load_float(noise + sample * noise_stride + start, offsets, mask)
    tl.store(out + sample * out_stride + start + offsets, prediction - e, mask=mask)


def guided_residual(
    out: Tensor,
    model_output: Tensor,
    noise: Tensor,
    guidance_scale: Tensor | None = None,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    guidance: str = "from_uncond",
    order: str = "uncond_first",
    prediction: str = "epsilon",
) -> None:
    """Launches `guided_residual_kernel`; `out` is [B, C, H, W] float32 with dense samples."""
    batch, size = noise.shape[0], sample_size(noise)
    if batch == 0:
        return
    model_output, noise = ordered_like(model_output, out), ordered_like(noise, out)
    noisy = None
    if prediction != "epsilon" and noisy_latents is not None:
        noisy = ordered_like(noisy_latents[:batch], out)
    grid, blocks = stream_grid(batch, size)
    strides = out.stride(0), model_output.stride(0), noise.stride(0), 0 if noisy is None else noisy.stride(0)
    constants = {
        "GUIDED": guidance_scale is not None,
        "FROM_TEXT": guidance == "from_text",
        "TEXT_FIRST": order == "text_first",
        "PREDICTION": prediction,
        **STREAM,
    }
    tensors = out, model_output, noise, guidance_scale, noisy, alpha, sigma
    launch(guided_residual_kernel, grid, tensors, (size, blocks, batch, *strides), constants)
