"""v′ = v + r, and its backward (1 + α_t) · grad. Both stream: everything is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._device import load_float
from ._host import STREAM, ordered_like, sample_size, stream_grid
from ._launch import launch


@triton.jit(do_not_specialize=["blocks"])
def residual_latents_kernel(
    out,  # [batch, size]
    latents,  # [batch, size]
    residual,  # [batch, size]
    size,
    blocks,  # per sample
    out_stride,  # between samples, in elements
    latents_stride,
    residual_stride,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start
    v = load_float(latents + sample * latents_stride + start, offsets, mask)
    r = load_float(residual + sample * residual_stride + start, offsets, mask)
    tl.store(out + sample * out_stride + start + offsets, (v + r).to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["blocks"])
def residual_latents_backward_kernel(
    out,  # [batch, size]
    grad,  # [batch, size]
    alpha,  # [batch] float32
    size,
    blocks,  # per sample
    out_stride,  # between samples, in elements
    grad_stride,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start
    g = load_float(grad + sample * grad_stride + start, offsets, mask)
    scaled = (1.0 + tl.load(alpha + sample)) * g
    tl.store(out + sample * out_stride + start + offsets, scaled.to(out.dtype.element_ty), mask=mask)


def residual_latents(out: Tensor, latents: Tensor, residual: Tensor, alpha: Tensor) -> None:
    """Launches `residual_latents_kernel`; `out` is [B, C, H, W] with dense samples."""
    batch, size = latents.shape[0], sample_size(latents)
    if batch == 0:
        return
    latents, residual = ordered_like(latents, out), ordered_like(residual, out)
    grid, blocks = stream_grid(batch, size)
    numbers = size, blocks, out.stride(0), latents.stride(0), residual.stride(0)
    launch(residual_latents_kernel, grid, (out, latents, residual), numbers, STREAM)


def residual_latents_backward(out: Tensor, grad: Tensor, alpha: Tensor) -> None:
    """Launches `residual_latents_backward_kernel`; `out` is [B, C, H, W] with dense samples."""
    batch, size = grad.shape[0], sample_size(grad)
    if batch == 0:
        return
    grad = ordered_like(grad, out)
    grid, blocks = stream_grid(batch, size)
    numbers = size, blocks, out.stride(0), grad.stride(0)
    launch(residual_latents_backward_kernel, grid, (out, grad, alpha), numbers, STREAM)
