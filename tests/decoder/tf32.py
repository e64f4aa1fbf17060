"""TensorFloat-32 without a GPU: what multiplies has its factors rounded to 10 bits before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CONVOLUTIONS = {"convolution", "convolution_backward", "_convolution", "mkldnn_convolution"}
PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"}


def rounded(x: Tensor) -> Tensor:
    """float32 to the nearest number of TensorFloat-32, ties to even."""
    if x.dtype != torch.float32:
        return x
    bits = x.contiguous().view(torch.int32)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return torch.empty_like(x).copy_(bits.view(torch.float32))


class TensorFloat32(TorchDispatchMode):
    """Convolutions, and with `products` matrix products, as in TensorFloat-32; `seen` counts both."""

    def __init__(self, *, products: bool = False):
        super().__init__()
        self.names, self.seen = CONVOLUTIONS | (PRODUCTS if products else set()), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.names:
            self.seen += 1
            # Not what is added to, which is the first of those that write and is not multiplied.
            kept = 1 if func.overloadpacket.__name__.startswith(("addmm", "baddbmm")) else 0
            args = (*args[:kept], *tree_map_only(Tensor, rounded, args[kept:]))
        return func(*args, **(kwargs or {}))
