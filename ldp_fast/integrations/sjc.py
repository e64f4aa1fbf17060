"""Score Jacobian Chaining (pals-ttic/sjc): the two regularisers beside its own term, in three lines of `run_sjc.py`.

    from ldp_fast.integrations.sjc import SJCLosses                             # at the top
    losses = SJCLosses(model, lambda_fm=0.1, lambda_kl=0.1, var_red=var_red)    # before the loop
    y.backward(losses.gradient(y, zs, Ds, chosen_σs)[0], retain_graph=True)     # in place of y.backward(-grad, …)

SJC is parametrised by the noise level: zs = y + σ·ε, and its denoiser gives D = zs − σ·ε̂. In the paper's terms
α = 1/√(1 + σ²), z_t = α·zs, w = 1, and the residual is r = ε̂ − ε = (y − D)/σ: the host's `grad` with the sign that a
gradient to descend has. Without variance reduction ε̂ = (zs − D)/σ is distilled in place of r.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..decoder import FrozenDecoder
from ..guidance import PriorOutput, PriorStatistics
from ._core import HostLosses, require


class SJCLosses:
    """SJC's term and the paper's regularisers on SJC's rendered latents.

    Args:
        model: the host's `StableDiffusion`; its first stage (CompVis') is shared, frozen, and only looked at if λ1 is
            not 0.
        lambda_fm: λ1, the paper's 0.1 for this host.
        lambda_kl: λ2, the paper's 0.1.
        lambda_lsd: λ3.
        var_red: the host's option: True distils r, False ε̂, whose mean is the same and whose variance is larger.
        **options: of `HostLosses`: levels, memory, decoder_dtype, nonfinite, clip.

    Raises:
        UsageError: the model has no CompVis first stage, and λ1 is not 0.
    """

    def __init__(
        self,
        model: Any,
        *,
        lambda_fm: float = 0.1,
        lambda_kl: float = 0.1,
        lambda_lsd: float = 1.0,
        var_red: bool = True,
        levels: tuple[str, ...] = ("up0", "up1", "up2"),
        memory: Any = "auto",
        decoder_dtype: torch.dtype | None = None,
        **options: Any,
    ):
        decoder = None
        if lambda_fm != 0:
            require(model, "model.first_stage_model.decoder", "model.scale_factor")
            inner = model.model
            decoder = FrozenDecoder(
                inner.first_stage_model,
                levels,
                memory=memory,
                dtype=decoder_dtype,
                scaling_factor=float(inner.scale_factor),
            )
        self.var_red = var_red
        self.losses = HostLosses(decoder, lambda_fm, lambda_kl, lambda_lsd, **options)

    def _arguments(self, y: Tensor, zs: Tensor, denoised: Tensor, sigma: Tensor) -> tuple[tuple[Any, ...], Any]:
        """r, α and w; and what is distilled where it is not r. All for the batch of noises."""
        sigma = sigma.detach().float()
        residual = (y.detach() - denoised) / sigma
        field = None if self.var_red else (zs.detach() - denoised) / sigma
        return (residual, (1 + sigma.square()).rsqrt(), 1.0), field

    def gradient(self, y: Tensor, zs: Tensor, Ds: Tensor, sigma: Tensor) -> tuple[Tensor, PriorStatistics]:
        """Gradient mode, the host's: what `y.backward` takes.

        Args:
            y: rendered latents, one for all noises  # [1, 4, H, W]
            zs: y + σ ε  # [B, 4, H, W]
            Ds: of `model.denoise(zs, σ)`  # [B, 4, H, W]
            sigma: σ  # [B, 1, 1, 1]

        Returns:
            dL/dy to descend, the mean over the noises  # [1, 4, H, W]
            and the statistics of each noise, on the device.
        """
        arguments, field = self._arguments(y, zs, Ds, sigma)
        gradient, statistics = self.losses.gradient(y.expand_as(Ds), *arguments, field=field)
        return gradient.sum(0, keepdim=True) if len(y) < len(Ds) else gradient, statistics

    def __call__(self, y: Tensor, zs: Tensor, Ds: Tensor, sigma: Tensor) -> PriorOutput:
        """Loss mode: `losses(y, zs, Ds, σ).loss` can be added to the host's depth and emptiness losses.

        Args: as `gradient`.
        """
        arguments, field = self._arguments(y, zs, Ds, sigma)
        return self.losses(y.expand_as(Ds), *arguments, field=field)
