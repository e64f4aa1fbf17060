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

from ..guidance.inputs import rows_for
from ._adapter import HostGuidance
from ._core import predict_residual

PIXELS = 512


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its modules and steps are read at every step.
        **keywords: as every adapter's, see `Adapter`.
    """

    METHODS = ("sds_loss",)
    NEEDS = ("imgs_to_latent", "min_step", "max_step")
    VAE, ENCODE = "auto_encoder", "imgs_to_latent"

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
            The loss, a float32 scalar on the graph of the images; in gradient mode a 0 [1] that carries the gradient.

        Raises:
            ValueError: neither 2 nor 2B embeddings.
        """
        host = self.host
        dtype = next(host.auto_encoder.parameters()).dtype
        image = F.interpolate(image, (PIXELS, PIXELS), mode="bilinear").to(dtype)
        t = torch.randint(host.min_step, host.max_step + 1, [1], dtype=torch.long, device=image.device)
        self.check_units()
        latents = host.imgs_to_latent(image)
        noise = torch.randn_like(latents)
        text, schedule = rows_for(text_embeddings, 2, len(latents)).to(dtype), self.schedule(latents.device)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t, encoder_hidden_states=text).sample,
            guidance_scale=guidance_scale,
            guidance="from_text",
            prediction=self.prediction,
        )
        weight = schedule.weight(t, "dreamfusion")
        return self._returned(latents, residual, alpha, weight, timesteps=t, outside=outside)


wrap = Guidance.wrap
