"""r = ε̂ − ε with Perp-Neg guidance: projections of the negatives first, then everything else in one pass.

The components perpendicular to e₊ need two sums over the whole sample for each negative, so there are two launches.
`perp_neg_projection_kernel` has one program a sample and negative: it reads p, u and n_i and writes one number,
c_i = ⟨e_i, e₊⟩ / ‖e₊‖². Lanes add up chunk by chunk and are reduced once at the end, in a fixed order. Each program
computes ‖e₊‖² for itself: p and u are in the cache, and nothing has to wait for another program.
`perp_neg_residual_kernel` streams: it reads all copies once more, ε, and z_t where the prediction type needs it, and
writes r. At batch 1 it fills the GPU, which one program a sample would not.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._device import load_float
from ._host import CHUNK, FUSED, STREAM, ordered_like, reduction_shape, sample_size, stream_grid
from .guided_residual import noise_prediction

PERP_NEG_FLOOR = tl.constexpr(1e-6)  # the reference's; a test holds them together


@triton.jit
def negative_row(sample, i, batch, COUNT: tl.constexpr, BY_SAMPLE: tl.constexpr):
    rows = tl.cast(batch, tl.int64)
    return 2 * rows + (sample * COUNT + i if BY_SAMPLE else i * rows + sample)


@triton.jit(do_not_specialize=["batch"])
def perp_neg_projection_kernel(
    projection,  # [batch, COUNT] float32
    model_output,  # [(2 + COUNT) * batch, size]
    size,
    batch,
    model_stride,  # between rows, in elements
    COUNT: tl.constexpr,
    TEXT_FIRST: tl.constexpr,
    BY_SAMPLE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    sample = (tl.program_id(0) // COUNT).to(tl.int64)
    i = (tl.program_id(0) % COUNT).to(tl.int64)
    rows = tl.cast(batch, tl.int64)
    first = model_output + sample * model_stride
    second = model_output + (sample + rows) * model_stride
    negative = model_output + negative_row(sample, i, batch, COUNT, BY_SAMPLE) * model_stride

    offsets = tl.arange(0, CHUNK)
    dots = tl.zeros((CHUNK,), tl.float32)
    squares = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, size, CHUNK):
        mask = offsets < size - start
        one, two = load_float(first + start, offsets, mask), load_float(second + start, offsets, mask)
        uncond = two if TEXT_FIRST else one
        positive = one - two if TEXT_FIRST else two - one
        dots += (load_float(negative + start, offsets, mask) - uncond) * positive
        squares += positive * positive
    square = tl.sum(squares, 0)
    # Not tl.maximum: a NaN must stay one.
    square = tl.where(square < PERP_NEG_FLOOR, PERP_NEG_FLOOR, square)
    tl.store(projection + sample * COUNT + i, tl.div_rn(tl.sum(dots, 0), square))


@triton.jit(do_not_specialize=["blocks", "batch"])
def perp_neg_residual_kernel(
    out,  # [batch, size] float32
    projection,  # [batch, COUNT] float32, of the kernel above
    model_output,  # [(2 + COUNT) * batch, size]
    noise,  # [batch, size]
    negative_weights,  # [batch, COUNT] float32
    guidance_scale,  # [batch] float32
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
    COUNT: tl.constexpr,
    TEXT_FIRST: tl.constexpr,
    BY_SAMPLE: tl.constexpr,
    PREDICTION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start

    one = load_float(model_output + sample * model_stride + start, offsets, mask)
    two = load_float(model_output + (sample + tl.cast(batch, tl.int64)) * model_stride + start, offsets, mask)
    uncond = two if TEXT_FIRST else one
    positive = one - two if TEXT_FIRST else two - one
    direction = positive
    for i in tl.static_range(COUNT):
        row = negative_row(sample, i, batch, COUNT, BY_SAMPLE)
        negative = load_float(model_output + row * model_stride + start, offsets, mask) - uncond
        w = tl.load(negative_weights + sample * COUNT + i)
        along = tl.load(projection + sample * COUNT + i) * positive
        # A weight of zero leaves a negative out, even one with a NaN in it.
        direction = tl.where(w != 0.0, direction + w * (negative - along), direction)
    prediction = uncond + tl.load(guidance_scale + sample) * direction

    prediction = noise_prediction(
        prediction, noisy_latents, alpha, sigma, sample, start, offsets, mask, noisy_stride, PREDICTION
    )
    e = load_float(noise + sample * noise_stride + start, offsets, mask)
    tl.store(out + sample * out_stride + start + offsets, prediction - e, mask=mask)


def perp_neg_residual(
    out: Tensor,
    projection: Tensor,
    model_output: Tensor,
    noise: Tensor,
    negative_weights: Tensor,
    guidance_scale: Tensor,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    order: str = "text_first",
    negatives: str = "by_copy",
    prediction: str = "epsilon",
) -> None:
    """Launches both kernels; `out` is [B, C, H, W] float32 with dense samples, `projection` and the weights [B, K]."""
    batch, size = noise.shape[0], sample_size(noise)
    if batch == 0:
        return
    count = negative_weights.shape[1]
    model_output, noise = ordered_like(model_output, out), ordered_like(noise, out)
    noisy = None
    if prediction != "epsilon" and noisy_latents is not None:
        noisy = ordered_like(noisy_latents[:batch], out)
    options = {"COUNT": count, "TEXT_FIRST": order == "text_first", "BY_SAMPLE": negatives == "by_sample"}
    block, _, warps = reduction_shape(size)
    perp_neg_projection_kernel[(batch * count,)](
        projection, model_output, size, batch, model_output.stride(0),
        **options, CHUNK=min(block, CHUNK), num_warps=warps, **FUSED,
    )  # fmt: skip
    grid, blocks = stream_grid(batch, size)
    perp_neg_residual_kernel[grid](
        out, projection, model_output, noise, negative_weights, guidance_scale, noisy, alpha, sigma,
        size, blocks, batch,
        out.stride(0), model_output.stride(0), noise.stride(0), 0 if noisy is None else noisy.stride(0),
        **options, PREDICTION=prediction, **STREAM,
    )  # fmt: skip
