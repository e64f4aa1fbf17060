"""The inputs of `latent_kl`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.latent_kl_loss`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    return {"latents": make.latents(mean=0.3)} | options


def argument_tuples(
    name: str = "latent_kl", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`, differentiable ones requiring a gradient."""
    x = Given.draw(dtype, shape)
    if name == "latent_kl_backward":
        return [(x.a, x.v, x.a, x.s), (x.a, x.nhwc, x.a, x.s, True)]
    v, nhwc = x.with_gradient()
    return [(v,), (nhwc, True)]
