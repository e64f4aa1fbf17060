"""The inputs of `combine_gradients`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.combine_gradients`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    named: dict[str, Any] = {"latents": make.latents(mean=0.3)}
    named |= {name: make.latents() for name in ("residual", "grad_v", "grad_v_prime")}
    named |= {"alpha": make.alpha, "weight": make.coefficient(0.05, 1.0)}
    return named | {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0} | options


def argument_tuples(
    name: str = "combine_gradients", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`."""
    x = Given.draw(dtype, shape)
    v, r, a, s = x.v, x.r, x.a, x.s
    return [
        (v, r, v, r, a, s, 0.01, 0.1, 1.0),
        (x.nhwc, r, None, None, a, s, 0.0, 0.1, 1.0, None, a, s, True, False, True),
    ]
