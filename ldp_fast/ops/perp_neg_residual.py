"""`torch.ops.ldp_fast.perp_neg_residual`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import compute_dtype, memory_format
from ..reference import perp_neg_residual as reference
from ._library import define, register, register_no_gradient


def _fake(
    model_output: Tensor,
    noise: Tensor,
    negative_weights: Tensor,
    guidance_scale: Tensor,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    order: str = "text_first",
    negatives: str = "by_copy",
    prediction: str = "epsilon",
) -> tuple[Tensor, Tensor]:
    dtype = compute_dtype(model_output, noise, noisy_latents)
    r = torch.empty(noise.shape, dtype=dtype, device=noise.device, memory_format=memory_format(noise))
    return r, torch.empty(negative_weights.shape, dtype=dtype, device=noise.device)


define(
    "perp_neg_residual(Tensor model_output, Tensor noise, Tensor negative_weights, Tensor guidance_scale, "
    "Tensor? noisy_latents=None, Tensor? alpha=None, Tensor? sigma=None, str order='text_first', "
    "str negatives='by_copy', str prediction='epsilon') -> (Tensor, Tensor)"
)
register(
    "perp_neg_residual",
    reference=reference,
    launcher="ldp_fast.kernels.perp_neg_residual:perp_neg_residual",
    fake=_fake,
)
register_no_gradient("perp_neg_residual", "Eq. 2 leaves out the network's Jacobian: detach its output")
