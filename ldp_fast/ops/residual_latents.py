"""`torch.ops.ldp_fast.residual_latents` and its backward, which carries the factor 1 + α_t of Eq. 2."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import reference
from ..reference import empty_like
from . import _latents
from ._direct import call
from ._library import backward_of, define, register, register_autograd, register_no_gradient


def _fake(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    return empty_like(latents, latents.dtype)


def _fake_backward(grad: Tensor, alpha: Tensor) -> Tensor:
    return empty_like(grad, grad.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None]:
    (alpha,) = ctx.saved_tensors
    wanted = ctx.needs_input_grad[0]
    return (call("residual_latents_backward", grad, alpha) if wanted else None), None, None


define("residual_latents(Tensor latents, Tensor residual, Tensor alpha) -> Tensor")
define("residual_latents_backward(Tensor grad, Tensor alpha) -> Tensor")
register(
    "residual_latents",
    reference=reference.residual_latents,
    launcher="ldp_fast.kernels.residual_latents:residual_latents",
    native=_latents.residual_latents,
    fake=_fake,
)
register(
    "residual_latents_backward",
    reference=reference.residual_latents_backward,
    launcher="ldp_fast.kernels.residual_latents:residual_latents_backward",
    native=_latents.residual_latents_backward,
    fake=_fake_backward,
)
register_autograd("residual_latents", _backward, _setup_context)
register_no_gradient("residual_latents_backward", backward_of("residual_latents"))
