"""½·mean(w r²) per sample, and the gradient field w r as a streaming kernel.

The value takes one program per sample and a fixed order of sums; r is read once in either direction.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._device import is_finite, load_float, zero_unless_finite
from ._host import FUSED, STREAM, dense, ordered_like, reduction_shape, sample_size, stream_grid
from ._launch import launch


@triton.jit
def score_distillation_kernel(
    value,  # [batch] float32
    count,  # [batch] int32
    residual,  # [batch, size]
    weight,  # [batch] float32
    size,
    residual_stride,  # between samples, in elements
    ZERO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(0).to(tl.int64)
    residual += sample * residual_stride
    w = tl.load(weight + sample)
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((), tl.float32)
    bad = tl.zeros((), tl.int32)
    for start in range(0, size, BLOCK):
        mask = offsets < size - start
        r = load_float(residual + start, offsets, mask)
        field = w * r
        # The masked elements are zero, but not once an infinite weight has multiplied them.
        finite = is_finite(field) | ~mask
        energy = tl.where(finite, field * r, 0.0) if ZERO else field * r
        total += tl.sum(tl.where(mask, energy, 0.0), 0)
        bad += tl.sum((~finite).to(tl.int32), 0)
    tl.store(value + sample, 0.5 * (total / size))
    tl.store(count + sample, bad)


@triton.jit(do_not_specialize=["blocks"])
def score_distillation_backward_kernel(
    out,  # [batch, size]
    grad,  # [batch] float32
    residual,  # [batch, size]
    weight,  # [batch] float32
    size,
    blocks,  # per sample
    out_stride,  # between samples, in elements
    residual_stride,
    ZERO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    start = (program % blocks).to(tl.int64) * BLOCK
    offsets = tl.arange(0, BLOCK)
    mask = offsets < size - start
    field = tl.load(weight + sample) * load_float(residual + sample * residual_stride + start, offsets, mask)
    if ZERO:
        field = zero_unless_finite(field)
    result = tl.load(grad + sample) * field
    tl.store(out + sample * out_stride + start + offsets, result.to(out.dtype.element_ty), mask=mask)


def score_distillation(
    value: Tensor,
    count: Tensor,
    latents: Tensor,
    residual: Tensor,
    weight: Tensor,
    zero_nonfinite: bool = False,
    counted: bool = True,
) -> None:
    """Launches `score_distillation_kernel`; value is [B] float32, count [B] int32. The latents are not read."""
    batch, size = residual.shape[0], sample_size(residual)
    if batch == 0:
        return
    # The kernel counts whether anybody wants it or not: it has the numbers at hand.
    count = count if counted else value.new_empty(batch, dtype=torch.int32)
    residual = dense(residual)
    block, _, warps = reduction_shape(size)
    constants = {"ZERO": zero_nonfinite, "BLOCK": block, "num_warps": warps, **FUSED}
    tensors = value, count, residual, weight
    launch(score_distillation_kernel, (batch,), tensors, (size, residual.stride(0)), constants)


def score_distillation_backward(
    out: Tensor,
    grad: Tensor,
    residual: Tensor,
    weight: Tensor,
    dtype: torch.dtype | None = None,
    zero_nonfinite: bool = False,
) -> None:
    """Launches `score_distillation_backward_kernel`; `out` is [B, C, H, W] with dense samples."""
    batch, size = residual.shape[0], sample_size(residual)
    if batch == 0:
        return
    residual = ordered_like(residual, out)
    grid, blocks = stream_grid(batch, size)
    tensors, numbers = (out, grad.contiguous(), residual, weight), (size, blocks, out.stride(0), residual.stride(0))
    launch(score_distillation_backward_kernel, grid, tensors, numbers, {"ZERO": zero_nonfinite, **STREAM})
