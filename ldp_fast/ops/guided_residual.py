"""`torch.ops.ldp_fast.guided_residual`."""

from __future__ import annotations

from torch import Tensor

from ..reference import compute_dtype, empty_like
from ..reference import guided_residual as reference
from . import _latents
from ._library import define, register, register_no_gradient


def _fake(
    model_output: Tensor,
    noise: Tensor,
    guidance_scale: Tensor | None = None,
    noisy_latents: Tensor | None = None,
    alpha: Tensor | None = None,
    sigma: Tensor | None = None,
    guidance: str = "from_uncond",
    order: str = "uncond_first",
    prediction: str = "epsilon",
) -> Tensor:
    return empty_like(noise, compute_dtype(model_output, noise, noisy_latents))


define(
    "guided_residual(Tensor model_output, Tensor noise, Tensor? guidance_scale=None, Tensor? noisy_latents=None, "
    "Tensor? alpha=None, Tensor? sigma=None, str guidance='from_uncond', str order='uncond_first', "
    "str prediction='epsilon') -> Tensor"
)
register(
    "guided_residual",
    reference=reference,
    launcher="ldp_fast.kernels.guided_residual:guided_residual",
    native=_latents.guided_residual,
    stored=_latents.WIDENED,
    fake=_fake,
)
register_no_gradient("guided_residual", "Eq. 2 leaves out the network's Jacobian: detach its output")
