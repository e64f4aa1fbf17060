"""DreamGaussian (dreamgaussian/dreamgaussian): its guidance with the paper's regularisers, by one line.

    from ldp_fast.integrations import dreamgaussian
    self.guidance_sd = dreamgaussian.wrap(StableDiffusion(self.device), lambda_fm=0.01, lambda_kl=0.1)    # main.py

The host's conventions: [text, uncond], e_u + s (e_c − e_u), w = 1 − ᾱ_t, one t a sample or one for all from
`step_ratio`, NaN to 0, the sum over elements divided by the batch. It returns a loss, as before; the value is a mean,
½·mean(w r²) + λ1·fm + λ2·kl, no longer ½·Σ(w r)²/B.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..guidance.inputs import rows_for
from ._adapter import HostGuidance
from ._core import predict_residual

FRONT, SIDE = 60, 120  # degrees of azimuth up to which a view is called so


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its modules, embeddings and steps are read at every step.
        **keywords: as every adapter's, see `Adapter`.
    """

    NEEDS = ("encode_imgs", "min_step", "max_step")

    def train_step(
        self,
        pred_rgb: Tensor,
        step_ratio: float | None = None,
        guidance_scale: float = 100,
        as_latent: bool = False,
        vers: Any = None,
        hors: Any = None,
    ) -> Tensor:
        """The host's contract.

        Args:
            pred_rgb: rendered images in [0, 1]  # [B, 3, H, W]; [B, 4, H, W] with `as_latent`
            step_ratio: how far the run is, in [0, 1], from which t follows; None draws a t for each sample.
            guidance_scale: s.
            as_latent: takes the images, resized and stretched to [−1, 1], for latents. The decoder
                does not know such latents: FM and KL are left out.
            vers: elevations, not used, as there.
            hors: azimuths in degrees, for the view's prompt; None: the prompt without a view  # B numbers

        Returns:
            The loss, a scalar on the graph of the images; in gradient mode a 0 [1] that carries the gradient.

        Raises:
            UsageError: the host has no embeddings yet.
            ValueError: another number of azimuths than images, or of embeddings than one a view.
        """
        host, batch = self.host, len(pred_rgb)
        if "neg" not in host.embeddings:
            raise UsageError("train_step: embeddings: expected those of get_text_embeds, which has not been called")
        pred_rgb = pred_rgb.to(host.dtype)
        if as_latent:
            latents = F.interpolate(pred_rgb, (64, 64), mode="bilinear", align_corners=False) * 2 - 1
        else:
            self.check_units()
            latents = host.encode_imgs(F.interpolate(pred_rgb, (512, 512), mode="bilinear", align_corners=False))
        if step_ratio is not None:
            fixed = min(max(round((1 - float(step_ratio)) * host.num_train_timesteps), host.min_step), host.max_step)
            t = torch.full((batch,), fixed, dtype=torch.long, device=latents.device)
        else:
            t = torch.randint(host.min_step, host.max_step + 1, (batch,), dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        schedule = self.schedule(latents.device)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        text = torch.cat([self._prompts(hors, batch), rows_for(host.embeddings["neg"], 1, batch)])
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, torch.cat([t] * 2), encoder_hidden_states=text).sample,
            guidance_scale=guidance_scale,
            order="text_first",
            prediction=self.prediction,
        )
        weight = schedule.weight(t, "dreamfusion")
        told: dict[str, Any] = {"timesteps": t, "outside": outside, "regularise": not as_latent}
        return self._returned(latents, residual, alpha, weight, **told)

    def _prompts(self, hors: Any, batch: int) -> Tensor:
        """The embeddings of each image's view  # [B, L, D]"""
        embeddings = self.host.embeddings
        if hors is None:
            return rows_for(embeddings["pos"], 1, batch)
        if len(hors) != batch:
            raise ValueError(f"hors: expected an azimuth for each of {batch} images, got {len(hors)}")
        names = ["front" if abs(h) < FRONT else "side" if abs(h) < SIDE else "back" for h in hors]
        return torch.cat([rows_for(embeddings[name], 1, 1) for name in names])


wrap = Guidance.wrap
