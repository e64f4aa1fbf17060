"""What the launchers share: the layout of the operands and the size of the grid."""

from __future__ import annotations

import torch
from torch import Tensor

STREAM_BLOCK = 1024
"""Elements per program of the streaming kernels: 8 per thread, which is one 128-bit access of half precision."""

FUSED = {"enable_fp_fusion": True}
"""Of every launch: a product and its sum are one instruction. From 3.10 on Triton does so only where it is asked."""

STREAM = {"BLOCK": STREAM_BLOCK, "num_warps": 4, **FUSED}
"""Of every launch of a streaming kernel."""

WHOLE_SAMPLE = 16384
"""Elements up to which a reducing kernel keeps a sample in registers (4 × 64 × 64, and 16 of 32 × 32)."""

CHUNK = 4096
"""Elements per turn of a reducing kernel's loop over a larger sample."""


def sample_size(tensor: Tensor) -> int:
    """Returns N, the elements of one sample of [B, C, H, W]."""
    _, channels, height, width = tensor.shape
    return channels * height * width


def stream_grid(batch: int, size: int) -> tuple[tuple[int], int]:
    """Returns the grid of a streaming kernel, and its blocks per sample."""
    blocks = (size + STREAM_BLOCK - 1) // STREAM_BLOCK
    return (batch * blocks,), blocks


def reduction_shape(size: int) -> tuple[int, bool, int]:
    """Returns block, whether a sample fits into one block, and warps, for one program per sample."""
    whole = size <= WHOLE_SAMPLE
    block = 1 << max(size - 1, 127).bit_length() if whole else CHUNK
    return block, whole, min(max(block // 256, 1), 16)


def dense(tensor: Tensor) -> Tensor:
    """Returns a tensor whose samples are dense blocks of memory, in whatever order: itself, or a contiguous copy.

    The batch stride is free: a slice, every other sample or an expanded batch is read in place.
    """
    if tensor.is_contiguous():
        return tensor
    expected = 1
    for stride, size in sorted(zip(tensor.stride()[1:], tensor.shape[1:], strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return tensor.contiguous()
        expected *= size
    return tensor


def ordered_like(tensor: Tensor, leader: Tensor) -> Tensor:
    """Returns a tensor whose samples are laid out as the leader's: itself, or a copy."""
    if (tensor.is_contiguous() and leader.is_contiguous()) or tensor.stride()[1:] == leader.stride()[1:]:
        return tensor
    axes = zip(tensor.stride()[1:], leader.stride()[1:], tensor.shape[1:], strict=True)
    if all(size == 1 or stride == wanted for stride, wanted, size in axes):
        return tensor
    strides = (sample_size(tensor), *leader.stride()[1:])
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
