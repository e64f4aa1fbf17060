"""nerfstudio's generfacto (nerfstudio-project/nerfstudio): its guidance with the paper's regularisers.

    from ldp_fast.integrations import nerfstudio as ldp
    self._diffusion_model = ldp.wrap(StableDiffusion(self.diffusion_device, version=…), lambda_fm=0.01, lambda_kl=0.1)

The host's conventions: [uncond, text], e_c + s (e_c − e_u), w = 1 − ᾱ_t, one t for the batch, NaN to 0, the sum over
elements divided by the batch. It returns a loss, as before; the value is a mean, ½·mean(w r²) + λ1·fm + λ2·kl, no
longer ½·Σ(w r)²/B, which overflows float16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance import PriorOutput
from ._core import HostLosses, attach, predict_residual, require, rows_for, schedule_of

PIXELS = 512


class Guidance:
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its modules and steps are read at every step.
        lambda_fm: λ1.
        lambda_kl: λ2.
        lambda_lsd: λ3.
        **options: of `HostLosses`: levels, memory, decoder_dtype, clip, nonfinite.

    Attributes:
        output: of the last step: the terms and the statistics, on the device; None before.
    """

    def __init__(
        self, host: Any, *, lambda_fm: float = 0.01, lambda_kl: float = 0.1, lambda_lsd: float = 1.0, **options: Any
    ):
        require(host, "unet", "auto_encoder", "scheduler.alphas_cumprod", "imgs_to_latent", "min_step", "max_step")
        options = {"nonfinite": "zero"} | options
        self.host = host
        self.losses = HostLosses(host.auto_encoder, lambda_fm, lambda_kl, lambda_lsd, **options)
        self.output: PriorOutput | None = None
        self._schedule: Any = None

    def sds_loss(
        self, text_embeddings: Tensor, image: Tensor, guidance_scale: float = 100.0, grad_scaler: Any = None
    ) -> Tensor:
        """The host's contract.

        Args:
            text_embeddings: [uncond, text]  # [2, L, D], or [2B, L, D]
            image: rendered images in [0, 1]; they take the autoencoder's precision  # [B, 3, H, W]
            guidance_scale: s; the effective scale is s + 1, as there.
            grad_scaler: not used, as there.

        Returns:
            The loss, a float32 scalar on the graph of the images.
        """
        host = self.host
        dtype = next(host.auto_encoder.parameters()).dtype
        image = F.interpolate(image, (PIXELS, PIXELS), mode="bilinear").to(dtype)
        t = torch.randint(host.min_step, host.max_step + 1, [1], dtype=torch.long, device=image.device)
        latents = host.imgs_to_latent(image)
        noise = torch.randn_like(latents)
        self._schedule = self._schedule or schedule_of(host.scheduler, latents.device)
        alpha, sigma = self._schedule.gather(t)
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t, encoder_hidden_states=rows_for(text_embeddings.to(dtype), z)).sample,
            guidance_scale=float(guidance_scale),
            guidance="from_text",
        )
        self.output = self.losses(latents, residual, alpha, self._schedule.weight(t, "dreamfusion"), timesteps=t)
        return self.output.loss


def wrap(host: Any, **options: Any) -> Any:
    """Puts our `sds_loss` into the host's object.

    Args:
        host: the host's `StableDiffusion`.
        **options: of `Guidance`.

    Returns:
        The same object; its attribute `ldp` is the `Guidance`.

    Raises:
        UsageError: it is not the host's object.
    """
    guidance = Guidance(host, **options)
    attach(host, sds_loss=guidance.sds_loss)
    object.__setattr__(host, "ldp", guidance)
    return host
