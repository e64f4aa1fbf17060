"""The inputs of `residual_latents`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.residual_latents`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    return {"latents": make.latents(), "residual": make.latents(), "alpha": make.alpha} | options


def argument_tuples(
    name: str = "residual_latents", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`, differentiable ones requiring a gradient."""
    x = Given.draw(dtype, shape)
    if name == "residual_latents_backward":
        return [(x.v, x.a), (x.nhwc, x.a)]
    return [(v, x.r, x.a) for v in x.with_gradient()]
