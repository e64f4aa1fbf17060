"""The inputs of `guided_residual`, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch

from .tensors import SHAPE, Given, Shape, drawing, lay_out


def inputs(**drawn: Any) -> dict[str, Any]:
    """Keyword arguments of `ldp_fast.losses.guided_residual`.

    Args:
        **drawn: those of `tensors.drawing`; further options are the function's, and win.
    """
    make, options = drawing(**drawn)
    guided = options.get("guidance_scale", True) is not None
    copies = 2 if guided else 1
    named = {"noise": make.latents(), "model_output": make.latents(copies=copies)}
    if guided:
        named["guidance_scale"] = make.coefficient(1.0, 10.0)
    if options.get("prediction", "epsilon") != "epsilon":
        named |= {"noisy_latents": make.latents(copies=copies), "alpha": make.alpha, "sigma": make.sigma}
    return named | options


def argument_tuples(
    name: str = "guided_residual", *, dtype: torch.dtype = torch.float32, shape: Shape = SHAPE
) -> list[tuple[Any, ...]]:
    """Positional arguments of `torch.ops.ldp_fast.<name>`."""
    x = Given.draw(dtype, shape)
    doubled = torch.cat([x.v, x.v])
    return [
        (x.v, x.r),
        (doubled, x.r, x.a),
        (doubled, x.r, x.a, doubled, x.a, x.s, "from_text", "text_first", "v_prediction"),
        (x.nhwc, lay_out(x.r, "channels_last"), None, x.v, x.a, x.s, "from_uncond", "uncond_first", "sample"),
    ]
