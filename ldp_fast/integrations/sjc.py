"""Score Jacobian Chaining (pals-ttic/sjc): the two regularisers beside its own term, in three lines of `run_sjc.py`.

    from ldp_fast.integrations.sjc import SJCLosses                             # at the top
    losses = SJCLosses(model, lambda_fm=0.1, lambda_kl=0.1, var_red=var_red)    # before the loop
    y.backward(losses.gradient(y, zs, Ds, chosen_σs)[0], retain_graph=True)     # in place of y.backward(-grad, …)

SJC is parametrised by the noise level: zs = y + σ·ε, and its denoiser gives D = zs − σ·ε̂. In the paper's terms
α = 1/√(1 + σ²), z_t = α·zs, w = 1, and the residual is r = ε̂ − ε = (y − D)/σ: the host's `grad` with the sign that a
gradient to descend has. Without variance reduction ε̂ = (zs − D)/σ is distilled in place of r.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..guidance import PriorOutput, PriorStatistics
from ._adapter import Adapter
from ._host import require


class SJCLosses(Adapter):
    """SJC's term and the paper's regularisers on SJC's rendered latents.

    Args:
        model: the host's `StableDiffusion`; its first stage (CompVis') and its `scale_factor` are read at every step,
            and only if λ1 is not 0. The first stage is shared, and never gets a gradient.
        var_red: the host's option: True distils r, False ε̂, whose mean is the same and whose variance is larger.
        **keywords: as every adapter's, see `Adapter`; the paper's λ's are 0.1, 0.1 and 1. `mode` is that of `step`.
            `prediction` decides nothing here: the host's `denoise` knows its network's.

    Raises:
        UsageError: the model lacks a CompVis first stage, and λ1 is not 0.
    """

    MODE = "gradient"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {"lambda_fm": 0.1, "lambda_kl": 0.1, "lambda_lsd": 1.0}
    VAE, SCALE = "model.first_stage_model", "model.scale_factor"

    def __init__(self, model: Any, *, var_red: bool = True, **keywords: Any):
        super().__init__(model, **keywords)
        self.var_red = var_red

    def _check_host(self) -> None:
        if self.losses.lambda_fm != 0:
            require(self.host, f"{self.VAE}.decoder", "model.scale_factor")

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
        gradient = self._gradient(y.expand_as(Ds), *arguments, field=field)
        assert self.statistics is not None
        return gradient.sum(0, keepdim=True) if len(y) < len(Ds) else gradient, self.statistics

    def __call__(self, y: Tensor, zs: Tensor, Ds: Tensor, sigma: Tensor) -> PriorOutput:
        """Loss mode: `losses(y, zs, Ds, σ).loss` can be added to the host's depth and emptiness losses.

        Args: as `gradient`.
        """
        arguments, field = self._arguments(y, zs, Ds, sigma)
        return self._loss(y.expand_as(Ds), *arguments, field=field)

    def step(self, y: Tensor, zs: Tensor, Ds: Tensor, sigma: Tensor) -> Tensor | int:
        """What `mode` says: in mode `gradient` backpropagates into y, as the host does, and returns 0; or the loss.

        Args: as `gradient`.
        """
        if self.mode == "loss":
            return self(y, zs, Ds, sigma).loss
        # The host differentiates the same graph again, for its other losses.
        y.backward(gradient=self.gradient(y, zs, Ds, sigma)[0].to(y.dtype), retain_graph=True)
        return 0


wrap = SJCLosses.wrap
