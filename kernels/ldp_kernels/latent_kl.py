"""Eq. 3 per sample: moments by two passes over registers, the value, and its gradient as a streaming kernel.

One program per sample, so the order of the sums is fixed. A sample of up to 16384 elements is read once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import is_finite, kl_gradient, kl_value, load_float, sample_moments, zero_unless_finite
from ._host import FUSED, STREAM, dense, ordered_like, reduction_shape, sample_size, stream_grid


@triton.jit
def latent_kl_kernel(
    value,  # [batch] float32
    mean,  # [batch] float32
    variance,  # [batch] float32
    count,  # [batch] int32
    latents,  # [batch, size]
    size,
    latents_stride,  # between samples, in elements
    ZERO: tl.constexpr,
    BLOCK: tl.constexpr,
    WHOLE: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    latents += sample * latents_stride
    offsets = tl.arange(0, BLOCK)
    v = load_float(latents, offsets, offsets < size)
    mu, var = sample_moments(v, latents, size, BLOCK, WHOLE)

    bad = (offsets < size) & ~is_finite(kl_gradient(v, mu, var))
    total = tl.sum(bad.to(tl.int32), 0)
    if not WHOLE:
        for start in range(BLOCK, size, BLOCK):
            mask = offsets < size - start
            bad = mask & ~is_finite(kl_gradient(load_float(latents + start, offsets, mask), mu, var))
            total += tl.sum(bad.to(tl.int32), 0)

    kl = kl_value(mu, var)
    tl.store(value + sample, zero_unless_finite(kl) if ZERO else kl)
    tl.store(mean + sample, mu)
    tl.store(variance + sample, var)
    tl.store(count + sample, total)


@triton.jit(do_not_specialize=["blocks"])
def latent_kl_backward_kernel(
    out,  # [batch, size]
    grad,  # [batch] float32
    latents,  # [batch, size]
    mean,  # [batch] float32
    variance,  # [batch] float32
    size,
    blocks,  # per sample
    out_stride,  # between samples, in elements
    latents_stride,
    ZERO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start
    v = load_float(latents + sample * latents_stride + start, offsets, mask)
    term = kl_gradient(v, tl.load(mean + sample), tl.load(variance + sample))
    if ZERO:
        term = zero_unless_finite(term)
    result = tl.load(grad + sample) / size * term
    tl.store(out + sample * out_stride + start + offsets, result.to(out.dtype.element_ty), mask=mask)


def latent_kl(
    value: Tensor,
    mean: Tensor,
    variance: Tensor,
    count: Tensor,
    latents: Tensor,
    zero_nonfinite: bool = False,
    counted: bool = True,
) -> None:
    """Launches `latent_kl_kernel`; the outputs are [B], float32 except the int32 count."""
    batch, size = latents.shape[0], sample_size(latents)
    if batch == 0:
        return
    # The kernel counts whether anybody wants it or not: it has the numbers at hand.
    count = count if counted else value.new_empty(batch, dtype=torch.int32)
    latents = dense(latents)
    block, whole, warps = reduction_shape(size)
    latent_kl_kernel[(batch,)](
        value, mean, variance, count, latents, size, latents.stride(0),
        ZERO=zero_nonfinite, BLOCK=block, WHOLE=whole, num_warps=warps, **FUSED,
    )  # fmt: skip


def latent_kl_backward(
    out: Tensor, grad: Tensor, latents: Tensor, mean: Tensor, variance: Tensor, zero_nonfinite: bool = False
) -> None:
    """Launches `latent_kl_backward_kernel`; `out` is [B, C, H, W] with dense samples."""
    batch, size = latents.shape[0], sample_size(latents)
    if batch == 0:
        return
    latents = ordered_like(latents, out)
    grid, blocks = stream_grid(batch, size)
    latent_kl_backward_kernel[grid](
        out, grad.contiguous(), latents, mean, variance, size, blocks, out.stride(0), latents.stride(0),
        ZERO=zero_nonfinite, **STREAM,
    )  # fmt: skip
