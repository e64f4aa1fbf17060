"""What the tests marked `gpu` share: sizes, which the stand-in makes small, and memory that has to be free."""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch

from . import standin

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
