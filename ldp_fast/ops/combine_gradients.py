"""`torch.ops.ldp_fast.combine_gradients`: gradient mode's last step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import combine_gradients as reference
from ..reference import compute_dtype, memory_format
from ._library import define, register, register_no_gradient


def _fake(
    latents: Tensor,
    residual: Tensor,
    grad_v: Tensor | None,
    grad_v_prime: Tensor | None,
    alpha: Tensor,
    weight: Tensor,
    lambda_fm: float,
    lambda_kl: float,
    lambda_lsd: float,
    lambda_fm_tensor: Tensor | None = None,
    lambda_kl_tensor: Tensor | None = None,
    lambda_lsd_tensor: Tensor | None = None,
    literal: bool = False,
    batch_mean: bool = True,
    zero_nonfinite: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, device = latents.shape[0], latents.device
    dtype = compute_dtype(latents, residual, grad_v, grad_v_prime)
    g = torch.empty(latents.shape, dtype=dtype, device=device, memory_format=memory_format(latents))
    values = torch.empty((8, batch), dtype=dtype, device=device)
    return g, values, torch.empty((3, batch), dtype=torch.int32, device=device)


define(
    "combine_gradients(Tensor latents, Tensor residual, Tensor? grad_v, Tensor? grad_v_prime, Tensor alpha, "
    "Tensor weight, float lambda_fm, float lambda_kl, float lambda_lsd, Tensor? lambda_fm_tensor=None, "
    "Tensor? lambda_kl_tensor=None, Tensor? lambda_lsd_tensor=None, bool literal=False, bool batch_mean=True, "
    "bool zero_nonfinite=False) -> (Tensor, Tensor, Tensor)"
)
register(
    "combine_gradients",
    reference=reference,
    launcher="ldp_fast.kernels.combine_gradients:combine_gradients",
    fake=_fake,
)
register_no_gradient("combine_gradients", "its result is a gradient already: detach its arguments")
