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

from torch import Tensor

from ..guidance import PriorOutput, PriorStatistics
from ._core import HostLosses
from ._host import require
from ._live import Attribute


class SJCLosses:
    """SJC's term and the paper's regularisers on SJC's rendered latents.

    Args:
        model: the host's `StableDiffusion`; its first stage (CompVis') and its `scale_factor` are read at every step,
            and only if λ1 is not 0. The first stage is shared, and never gets a gradient.
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
        **options: Any,
    ):
        if lambda_fm != 0:
            require(model, "model.first_stage_model.decoder", "model.scale_factor")
        self.var_red = var_red
        first_stage, scale = Attribute(model, "model.first_stage_model"), Attribute(model, "model.scale_factor")
        self.losses = HostLosses(first_stage, lambda_fm, lambda_kl, lambda_lsd, scaling_factor=scale, **options)
        self.losses.check()

    def _arguments(self, y: Tensor, zs: Tensor, denoised: Tensor, sigma: Tensor) -> tuple[tuple[Any, ...], Any]:
        """r, α and w; and what is distilled where it is not r. All for the batch of noises."""
        if zs.shape != denoised.shape or len(y) not in (1, len(zs)) or sigma.numel() not in (1, len(zs)):
            raise ValueError(
                f"SJCLosses: expected zs, Ds and σ for each noise and y for one or all of them, got y {list(y.shape)}, "
                f"zs {list(zs.shape)}, Ds {list(denoised.shape)}, σ {list(sigma.shape)}"
            )
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

        Raises:
            ValueError: another number of noises in one of them than in the others.
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
