"""What the reference functions share: the dtype of the arithmetic, broadcasting, and the layout of results."""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Returns float64 if any of the tensors is float64, else float32."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32


def per_sample(coefficient: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns a coefficient [B] as [B, 1, 1, 1], for multiplication with latents."""
    return (coefficient if coefficient.dtype == dtype else coefficient.to(dtype)).view(-1, 1, 1, 1)


def widened(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the tensor in a dtype; `to` takes a microsecond to find that there is nothing to do."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def count_nonfinite(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Returns the number of elements that are not finite over some dims, int32; exact up to 2²⁴ of them."""
    # 0 or NaN, then 0 or 1 in place: isfinite takes four passes, and booleans are slow to write.
    marks = tensor - tensor
    return torch.ne(marks, marks, out=marks).sum(dims).to(torch.int32)


def no_count(like: Tensor) -> Tensor:
    """Returns what stands for a count that nobody wants, [0] int32."""
    return torch.empty(0, dtype=torch.int32, device=like.device)


def memory_format(tensor: Tensor) -> torch.memory_format:
    """Returns the format a result takes from its leading input: channels-last if its samples are, else contiguous.

    Only the order within a sample counts: every other sample of a channels-last batch is still channels-last.
    """
    if tensor.is_contiguous():
        return torch.contiguous_format
    _, channels, height, width = tensor.shape
    _, stride_c, stride_h, stride_w = tensor.stride()

    def dense(c: int, h: int, w: int) -> bool:
        # The stride of an axis of size one is never used and may be anything.
        pairs = ((channels, stride_c, c), (height, stride_h, h), (width, stride_w, w))
        return all(size == 1 or stride == wanted for size, stride, wanted in pairs)

    if dense(height * width, width, 1) or not dense(1, width * channels, channels):
        return torch.contiguous_format
    return torch.channels_last


def empty_like(tensor: Tensor, dtype: torch.dtype, batch: int | None = None) -> Tensor:
    """Returns an empty tensor of a shape and of its `memory_format`, or of so many samples."""
    if batch is None:
        return torch.empty_like(tensor, dtype=dtype, memory_format=memory_format(tensor))
    wanted = (batch, *tensor.shape[1:])
    if tensor.is_contiguous():
        return tensor.new_empty(wanted, dtype=dtype)
    return torch.empty(wanted, dtype=dtype, device=tensor.device, memory_format=memory_format(tensor))


def in_format(tensor: Tensor, wanted: torch.memory_format) -> Tensor:
    """Returns the tensor with exactly the strides of a fresh tensor of that format; copies only if it must."""
    _, channels, height, width = tensor.shape
    size = channels * height * width
    last = wanted == torch.channels_last
    if tensor.stride() == ((size, 1, width * channels, channels) if last else (size, height * width, width, 1)):
        return tensor
    fresh = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=wanted)
    return fresh.copy_(tensor)
