"""What the reference functions share: the dtype of the arithmetic, broadcasting, and the layout of results."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Returns float64 if any of the tensors is float64, else float32."""
    return reduce(torch.promote_types, (t.dtype for t in tensors if t is not None), torch.float32)


def per_sample(coefficient: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a coefficient [B] as [B, 1, 1, 1], for multiplication with latents."""
    return coefficient.to(dtype)[:, None, None, None]


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Returns the format a result takes from its leading input: channels-last if its samples are, else contiguous.

    Only the order within a sample counts: every other sample of a channels-last batch is still channels-last.
    """
    _, channels, height, width = tensor.shape
    _, stride_c, stride_h, stride_w = tensor.stride()

    def dense(c: int, h: int, w: int) -> bool:
        # The stride of an axis of size one is never used and may be anything.
        pairs = ((channels, stride_c, c), (height, stride_h, h), (width, stride_w, w))
        return all(size == 1 or stride == wanted for size, stride, wanted in pairs)

    if dense(height * width, width, 1) or not dense(1, width * channels, channels):
        return torch.contiguous_format
    return torch.channels_last


def in_format(tensor: Tensor, wanted: torch.memory_format) -> Tensor:
    """Returns the tensor with exactly the strides of a fresh tensor of that format; copies only if it must."""
    fresh = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=wanted)
    return tensor if tensor.stride() == fresh.stride() else fresh.copy_(tensor)
