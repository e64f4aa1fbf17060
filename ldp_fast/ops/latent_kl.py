"""`torch.ops.ldp_fast.latent_kl` and its backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference import compute_dtype, empty_like
from ._direct import call
from ._library import backward_of, define, register, register_autograd, register_no_gradient


def _fake(latents: Tensor, zero_nonfinite: bool = False, counted: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, dtype = latents.shape[0], compute_dtype(latents)
    value, mean, variance = (torch.empty(batch, dtype=dtype, device=latents.device) for _ in range(3))
    return value, mean, variance, torch.empty(batch if counted else 0, dtype=torch.int32, device=latents.device)


def _fake_backward(
    grad: Tensor, latents: Tensor, mean: Tensor, variance: Tensor, zero_nonfinite: bool = False
) -> Tensor:
    return empty_like(latents, latents.dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(inputs[0], output[1], output[2])
    ctx.zero_nonfinite = inputs[1]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, None, None]:
    if grad is None or not ctx.needs_input_grad[0]:
        return None, None, None
    latents, mean, variance = ctx.saved_tensors
    return call("latent_kl_backward", grad, latents, mean, variance, ctx.zero_nonfinite), None, None


define("latent_kl(Tensor latents, bool zero_nonfinite=False, bool counted=True) -> (Tensor, Tensor, Tensor, Tensor)")
define(
    "latent_kl_backward(Tensor grad, Tensor latents, Tensor mean, Tensor variance, bool zero_nonfinite=False) -> Tensor"
)
register("latent_kl", reference=reference.latent_kl, launcher="ldp_fast.kernels.latent_kl:latent_kl", fake=_fake)
register(
    "latent_kl_backward",
    reference=reference.latent_kl_backward,
    launcher="ldp_fast.kernels.latent_kl:latent_kl_backward",
    fake=_fake_backward,
)
register_autograd("latent_kl", _backward, _setup_context)
register_no_gradient("latent_kl_backward", backward_of("latent_kl"))
