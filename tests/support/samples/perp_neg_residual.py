"""The inputs of `perp_neg_residual`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.perp_neg_residual`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
        count: negative prompts, besides the options.
    """
    make, options = drawing(**drawn)
    count = options.pop("count", 2)
    named = {"noise": make.latents(), "model_output": make.latents(copies=2 + count)}
    named["negative_weights"] = make.coefficient(-2.0, -0.1, count)
    named["guidance_scale"] = make.coefficient(1.0, 10.0)
    if options.get("prediction", "epsilon") != "epsilon":
        named |= {"noisy_latents": make.latents(), "alpha": make.alpha, "sigma": make.sigma}
    return named | options


def argument_tuples(
    name: str = "perp_neg_residual", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`."""
    x = Given.draw(dtype, shape)
    return [
        (torch.cat([x.v] * 4), x.r, torch.stack([-x.a, x.s], 1), x.s),
        (
            torch.cat([x.nhwc, x.v, x.v]),
            *(x.r, -x.a[:, None], x.s, x.v, x.a, x.s, "uncond_first", "by_sample", "v_prediction"),
        ),
    ]
