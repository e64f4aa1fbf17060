"""The inputs of `score_distillation`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing, lay_out


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.score_distillation_loss`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    return {"latents": make.latents(), "residual": make.latents(), "weight": make.coefficient(0.05, 1.0)} | options


def argument_tuples(
    name: str = "score_distillation", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`, differentiable ones requiring a gradient."""
    x = Given.draw(dtype, shape)
    if name == "score_distillation_backward":
        return [(x.a, x.r, x.s, dtype), (x.a, lay_out(x.r, "channels_last"), x.s, dtype, True)]
    v, nhwc = x.with_gradient()
    return [(v, x.r, x.a), (nhwc, x.r, x.a, True)]
