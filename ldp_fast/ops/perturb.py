"""`torch.ops.ldp_fast.perturb`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..reference import perturb as reference
from ..reference._common import memory_format
from ._library import define, register, register_no_gradient


def _fake(
    latents: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, copies: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    batch, *rest = latents.shape
    return torch.empty(
        (copies * batch, *rest),
        dtype=dtype or latents.dtype,
        device=latents.device,
        memory_format=memory_format(latents),
    )


define(
    "perturb(Tensor latents, Tensor noise, Tensor alpha, Tensor sigma, int copies=1, ScalarType? dtype=None) -> Tensor"
)
register("perturb", reference=reference, launcher="ldp_fast.kernels.perturb:perturb", fake=_fake)
register_no_gradient("perturb", "Eq. 2 leaves out the network's Jacobian: detach the latents")
