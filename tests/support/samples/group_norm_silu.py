"""Inputs of the group norm operators, for their tests and their benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import ldp_fast.ops  # noqa: F401  registers them
from ldp_fast import _settings

from .tensors import DTYPES, Shape, lay_out

EPS = 1e-6

# (shape, groups): no multiple of anything, groups of one channel and of all, one pixel, wide, several chunks of pixels.
CASES: tuple[tuple[Shape, int], ...] = (
    ((2, 4, 3, 5), 4),
    ((1, 6, 7, 3), 3),
    ((2, 127, 3, 3), 1),
    ((3, 8, 1, 1), 2),
    ((1, 96, 5, 7), 32),
    ((1, 2048, 2, 3), 32),
    ((2, 64, 16, 18), 32),
    ((2, 4, 40, 33), 2),
)

WIDEST_FIRST = (*DTYPES[::-1], torch.float64)


def crossed(*kinds: tuple[Any, ...], cases: Sequence[tuple[Shape, int]] = CASES) -> list[tuple[Any, ...]]:
    """Every shape in every kind. Interpreted, which is slow: the first shape in every kind, the others in one each."""
    few = _settings.interpreting()
    return [
        (*case, *kind)
        for number, case in enumerate(cases)
        for place, kind in enumerate(kinds)
        if not few or number == 0 or number % len(kinds) == place
    ]


def inputs(
    shape: Shape = (2, 32, 5, 7),
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    layout: str = "channels_last",
    mean: float = 0.3,
    affine: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """x, weight and bias of a group norm, a gradient of its output, and what else arrives at x (`addend`).

    Args:
        shape: [B, C, H, W].
        dtype: of everything.
        device: of everything.
        layout: of the images, a name of `tests.support.samples.LAYOUTS`.
        mean: of x, whose standard deviation is one.
        affine: False for neither weight nor bias.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int, offset: float = 0.0) -> Tensor:
        values = torch.randn(size, dtype=torch.float64, generator=generator) + offset
        return values.to(dtype).to(device)

    images = {name: lay_out(normal(*shape, offset=mean * (name == "x")), layout) for name in ("x", "grad", "addend")}
    constants = {"weight": normal(shape[1], offset=1.0), "bias": normal(shape[1])}
    return images | (constants if affine else {"weight": None, "bias": None})


def signs(x: Tensor, *, nan: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Packed signs for the halves of x, of which a third are zero, and the same signs as numbers [B / 2, C, H, W].

    Args:
        x: [B, C, H, W].
        nan: whether a few of the differences are NaN.
        seed: of the values.
    """
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = x.shape
    drawn = torch.randint(-1, 2, (batch // 2, height, width, channels), generator=generator).double()
    if nan:
        drawn = torch.where(torch.rand(drawn.shape, generator=generator) < 0.1, float("nan"), drawn)
    rows = torch.cat([drawn, torch.zeros_like(drawn)]).flatten(1).to(x.dtype).to(x.device)
    packed = torch.ops.ldp_fast.feature_matching([rows], [], "mean", "mean", "propagate", True)[3]
    return packed, drawn.permute(0, 3, 1, 2).to(x.device)


def argument_tuples(name: str, *, dtype: torch.dtype = torch.float32) -> list[tuple[Any, ...]]:
    """Argument tuples for `torch.ops.ldp_fast.<name>`, x requiring a gradient where there is one."""
    tuples: list[tuple[Any, ...]] = []
    for layout, silu in (("channels_last", True), ("contiguous", False)):
        sample = inputs(dtype=dtype, layout=layout)
        x, affine = sample["x"], (sample["weight"], sample["bias"])
        moments = torch.ops.ldp_fast.group_norm_moments(x, 8, EPS)
        if name == "group_norm_moments":
            tuples += [(x, 8, EPS), (x.clone().requires_grad_(), 32, EPS)]
        elif name == "group_norm_silu":
            tuples += [(x.clone().requires_grad_(), *moments, *affine, silu), (x, *moments, None, None, silu)]
        else:
            tuples += [(sample["grad"], x, *moments, *affine, silu)]
            tuples += [(sample["grad"], x, *moments, *affine, silu, sample["addend"], signs(x)[0], 0.5)]
    return tuples
