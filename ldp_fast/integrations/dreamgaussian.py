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

from ..guidance import PriorOutput
from ._core import HostLosses, attach, predict_residual, require, schedule_of

FRONT, SIDE = 60, 120  # degrees of azimuth up to which a view is called so


class Guidance:
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its modules, embeddings and steps are read at every step.
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
        require(host, "unet", "vae", "scheduler.alphas_cumprod", "encode_imgs", "min_step", "max_step")
        self.host = host
        self.losses = HostLosses(host.vae, lambda_fm, lambda_kl, lambda_lsd, **({"nonfinite": "zero"} | options))
        self.output: PriorOutput | None = None
        self._schedule: Any = None

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
            as_latent: takes the images, resized and stretched to [−1, 1], for latents. They are none that the decoder
                knows: FM and KL are left out.
            vers: elevations, not used, as there.
            hors: azimuths in degrees, for the view's prompt; None: the prompt without a view  # B numbers

        Returns:
            The loss, a scalar on the graph of the images.
        """
        host, batch = self.host, len(pred_rgb)
        pred_rgb = pred_rgb.to(host.dtype)
        if as_latent:
            latents = F.interpolate(pred_rgb, (64, 64), mode="bilinear", align_corners=False) * 2 - 1
        else:
            latents = host.encode_imgs(F.interpolate(pred_rgb, (512, 512), mode="bilinear", align_corners=False))
        if step_ratio is not None:
            fixed = min(max(round((1 - float(step_ratio)) * host.num_train_timesteps), host.min_step), host.max_step)
            t = torch.full((batch,), fixed, dtype=torch.long, device=latents.device)
        else:
            t = torch.randint(host.min_step, host.max_step + 1, (batch,), dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        self._schedule = self._schedule or schedule_of(host.scheduler, latents.device)
        alpha, sigma = self._schedule.gather(t)
        text = torch.cat([*self._prompts(hors, batch), host.embeddings["neg"].expand(batch, -1, -1)])
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, torch.cat([t] * 2), encoder_hidden_states=text).sample,
            guidance_scale=float(guidance_scale),
            order="text_first",
        )
        weight = self._schedule.weight(t, "dreamfusion")
        self.output = self.losses(latents, residual, alpha, weight, timesteps=t, regularise=not as_latent)
        return self.output.loss

    def _prompts(self, hors: Any, batch: int) -> list[Tensor]:
        embeddings = self.host.embeddings
        if hors is None:
            return [embeddings["pos"].expand(batch, -1, -1)]
        names = ["front" if abs(h) < FRONT else "side" if abs(h) < SIDE else "back" for h in hors]
        return [embeddings[name] for name in names]


def wrap(host: Any, **options: Any) -> Any:
    """Puts our `train_step` into the host's object.

    Args:
        host: the host's `StableDiffusion`.
        **options: of `Guidance`.

    Returns:
        The same object; its attribute `ldp` is the `Guidance`.

    Raises:
        UsageError: it is not the host's object.
    """
    guidance = Guidance(host, **options)
    attach(host, train_step=guidance.train_step)
    object.__setattr__(host, "ldp", guidance)
    return host
