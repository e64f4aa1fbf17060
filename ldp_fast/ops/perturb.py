"""`torch.ops.ldp_fast.perturb`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import empty_like
from ..reference import perturb as reference
from . import _latents
from ._library import define, register, register_no_gradient


def _fake(
    latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, copies: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    return empty_like(latents, dtype or latents.dtype, copies * latents.shape[0])


define(
    "perturb(Tensor latents, Tensor noise, Tensor alpha, Tensor sigma, int copies=1, ScalarType? dtype=None) -> Tensor"
)
register(
    "perturb",
    reference=reference,
    launcher="ldp_fast.kernels.perturb:perturb",
    native=_latents.perturb,
    suits=lambda latents, noise, alpha, sigma, copies=1, dtype=None: dtype in (None, torch.float32),
    fake=_fake,
)
register_no_gradient("perturb", "Eq. 2 leaves out the network's Jacobian: detach the latents")
