"""What the kernels share: finiteness, and the moments of one sample.

One program owns one sample. A sample that fits is loaded once and stays in registers; a larger one is read in chunks,
in a fixed order, so that every result is the same from run to run.
"""

from __future__ import annotations

import triton
import triton.language as tl

KL_VARIANCE_FLOOR = tl.constexpr(1e-6)  # the reference's; a test holds them together


@triton.jit
def is_finite(x):
    return tl.abs(x) < float("inf")


@triton.jit
def zero_unless_finite(x):
    return tl.where(is_finite(x), x, 0.0)


@triton.jit
def load_float(pointer, offsets, mask):
    return tl.load(pointer + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def sample_moments(v, latents, size, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """Mean and biased variance, by two passes. `v` is the first block of the sample, zero past the end."""
    offsets = tl.arange(0, BLOCK)
    total = tl.sum(v, 0)
    if not WHOLE:
        for start in range(BLOCK, size, BLOCK):
            total += tl.sum(load_float(latents + start, offsets, offsets < size - start), 0)
    mean = total / size

    deviation = tl.where(offsets < size, v - mean, 0.0)
    total = tl.sum(deviation * deviation, 0)
    if not WHOLE:
        for start in range(BLOCK, size, BLOCK):
            mask = offsets < size - start
            deviation = tl.where(mask, load_float(latents + start, offsets, mask) - mean, 0.0)
            total += tl.sum(deviation * deviation, 0)
    return mean, total / size


@triton.jit
def floored(variance):
    # Not tl.maximum: a NaN must stay one.
    return tl.where(variance < KL_VARIANCE_FLOOR, KL_VARIANCE_FLOOR, variance)


@triton.jit
def kl_value(mean, variance):
    tangent = tl.where(variance < KL_VARIANCE_FLOOR, variance / KL_VARIANCE_FLOOR - 1.0, 0.0)
    return 0.5 * (mean * mean + variance - (tl.log(floored(variance)) + tangent) + 1.0)


@triton.jit
def kl_gradient(v, mean, variance):
    return mean + (v - mean) * ((floored(variance) - 1.0) / floored(variance))
