"""Inputs of the frozen convolution, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tensors import Shape, lay_out

KINDS = ("same", "same_transposed", "upsample", "upsample_transposed")


def out_shape(x: Shape, out: int, kind: str) -> Shape:
    """The shape of the result for an x and a number of channels."""
    height, width = x[2:]
    if kind == "upsample":
        height, width = 2 * height, 2 * width
    elif kind == "upsample_transposed":
        height, width = height // 2, width // 2
    return (x[0], out, height, width)


def inputs(
    kind: str = "same",
    shape: Shape = (2, 16, 5, 7),
    out: int = 32,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    layout: str = "channels_last",
    weight_last: bool = False,
    bias: bool = False,
    silu: bool = False,
    addend: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Arguments of `torch.ops.ldp_fast.frozen_conv`, in its order.

    Args:
        kind: which convolution.
        shape: of x, [B, channels in, H, W]; `upsample_transposed` takes twice that height and width.
        out: channels of the result.
        dtype: of everything but scale and shift, which are float32 (float64 with it).
        device: of everything.
        layout: of x and the addend, a name of `tests.support.samples.LAYOUTS`.
        weight_last: the weights channels-last.
        bias: with a bias, where the kind has one.
        silu: with scale and shift.
        addend: with an addend.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, factor: float = 1.0) -> Tensor:
        return factor * torch.randn(size, dtype=torch.float64, generator=generator)

    if kind == "upsample_transposed":
        shape = (*shape[:2], 2 * shape[2], 2 * shape[3])
    transposed = kind.endswith("transposed")
    taps = (shape[1], out) if transposed else (out, shape[1])
    wide = torch.promote_types(dtype, torch.float32)
    values: dict[str, Any] = {
        "x": lay_out(normal(*shape).to(dtype), layout),
        "weight": normal(*taps, 3, 3, factor=(9 * shape[1]) ** -0.5).to(dtype),
        "bias": normal(out).to(dtype) if bias and not transposed else None,
        "scale": normal(*shape[:2]).to(wide) + 1.0 if silu else None,
        "shift": normal(*shape[:2]).to(wide) if silu else None,
        "addend": lay_out(normal(*out_shape(shape, out, kind)).to(dtype), layout) if addend else None,
    }
    if weight_last:
        values["weight"] = values["weight"].contiguous(memory_format=torch.channels_last)
    moved = {name: value if value is None else value.to(device) for name, value in values.items()}
    return moved | {"kind": kind}


def argument_tuples(name: str = "frozen_conv", *, dtype: torch.dtype = torch.float32) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`: every kind, bare and with everything, 16 channels and 5."""
    tuples: list[tuple[Any, ...]] = []
    for kind in KINDS:
        for channels in (16, 5):
            shape = (2, channels, 4, 3)
            tuples.append(tuple(inputs(kind, shape, channels, dtype=dtype, layout="contiguous").values()))
            everything = inputs(kind, shape, 2 * channels, dtype=dtype, bias=True, silu=True, addend=True)
            tuples.append(tuple(everything.values()))
    return tuples
