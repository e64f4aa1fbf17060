"""`torch.ops.ldp_fast.score_distillation` and its backward, the gradient field w r."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from ..reference import compute_dtype, empty_like
from . import _latents
from ._direct import call
from ._library import backward_of, define, register, register_autograd, register_no_gradient


def _reference(
    latents: Tensor, residual: Tensor, weight: Tensor, zero_nonfinite: bool = False, counted: bool = True
) -> tuple[Tensor, Tensor]:
    return reference.score_distillation(residual, weight, zero_nonfinite, counted)


def _fake(
    latents: Tensor, residual: Tensor, weight: Tensor, zero_nonfinite: bool = False, counted: bool = True
) -> tuple[Tensor, Tensor]:
    batch, device = residual.shape[0], residual.device
    value = torch.empty(batch, dtype=compute_dtype(residual), device=device)
    return value, torch.empty(batch if counted else 0, dtype=torch.int32, device=device)


def _fake_backward(
    grad: Tensor, residual: Tensor, weight: Tensor, dtype: torch.dtype, zero_nonfinite: bool = False
) -> Tensor:
    return empty_like(residual, dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    latents, residual, weight, ctx.zero_nonfinite, _ = inputs
    ctx.dtype = latents.dtype
    ctx.save_for_backward(residual, weight)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, None, None, None, None]:
    if grad is None or not ctx.needs_input_grad[0]:
        return None, None, None, None, None
    residual, weight = ctx.saved_tensors
    field = call("score_distillation_backward", grad, residual, weight, ctx.dtype, ctx.zero_nonfinite)
    return field, None, None, None, None


# The latents are an argument for autograd's sake alone: the values depend on the residual only.
define(
    "score_distillation(Tensor latents, Tensor residual, Tensor weight, bool zero_nonfinite=False, bool counted=True) "
    "-> (Tensor, Tensor)"
)
define(
    "score_distillation_backward(Tensor grad, Tensor residual, Tensor weight, ScalarType dtype, "
    "bool zero_nonfinite=False) -> Tensor"
)
register(
    "score_distillation",
    reference=_reference,
    launcher="ldp_fast.kernels.score_distillation:score_distillation",
    native=_latents.score_distillation,
    fake=_fake,
)
register(
    "score_distillation_backward",
    reference=reference.score_distillation_backward,
    launcher="ldp_fast.kernels.score_distillation:score_distillation_backward",
    native=_latents.score_distillation_backward,
    suits=lambda grad, residual, weight, dtype, zero_nonfinite=False: dtype == torch.float32,
    fake=_fake_backward,
)
register_autograd("score_distillation", _backward, _setup_context)
register_no_gradient("score_distillation_backward", backward_of("score_distillation"))
