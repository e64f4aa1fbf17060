"""What the tests marked `gpu` share: sizes, which the stand-in makes small, free memory, and torch's settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TypeVar

import pytest
import torch

from .. import standin

T = TypeVar("T")

second_device = pytest.mark.skipif(
    torch.cuda.device_count() < 2 and not standin.ACTIVE, reason="needs a second CUDA device"
)


def size(real: T, rehearsed: T) -> T:
    """A size on a device, and one that the stand-in holds in a moment."""
    return rehearsed if standin.ACTIVE else real


MANY = size(2**31, 2**13)
"""One more element than the largest index of 32 bits counts."""


def needs_memory(gigabytes: int) -> None:
    """Skips where a device has less free memory than so many GiB."""
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    if free < gigabytes << 30:
        pytest.skip(f"needs {gigabytes} GiB of free GPU memory, found {free / 2**30:.1f}")


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """float32 products in float32: by default cuDNN's convolutions are TensorFloat-32's."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Algorithms that always give the same bits, and the same ones in a graph and outside of it.

    Without `warn_only`: with it torch's memory-efficient attention, which serves heads of 512, adds in any order.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    chosen = cudnn.deterministic, cudnn.benchmark
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = chosen
