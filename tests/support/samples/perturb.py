"""The inputs of `perturb`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.perturb`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    named = {"latents": make.latents(), "noise": make.latents(), "alpha": make.alpha, "sigma": make.sigma}
    return named | options


def argument_tuples(
    name: str = "perturb", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`."""
    x = Given.draw(dtype, shape)
    return [(x.v, x.r, x.a, x.s), (x.nhwc, x.r, x.a, x.s, 2, torch.float16)]
