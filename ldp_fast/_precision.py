"""Whether torch computes float32 products on a GPU in TensorFloat-32. It is read here, and set nowhere.

torch has two ways to say so, `allow_tf32` and, since 2.9, `fp32_precision`, and no way to undo either: who sets one of
them and puts it back leaves other defaults behind. Asking `allow_tf32` is an error once the other has been used;
`fp32_precision` can always be asked, and knows of both.
"""

from __future__ import annotations

from typing import Any

EPSILON = 2.0**-10
"""The distance from 1 to the next number of TensorFloat-32."""


def in_tf32() -> tuple[str, ...]:
    """Which float32 products on a GPU are TensorFloat-32's: of `convolutions` and `matrix products`."""
    import torch

    backends: Any = torch.backends
    asked = {"convolutions": backends.cudnn.conv, "matrix products": backends.cuda.matmul}
    return tuple(name for name, backend in asked.items() if backend.fp32_precision == "tf32")
