"""ProlificDreamer (thu-ml/prolificdreamer): its guidance with the paper's regularisers, by one line.

    from ldp_fast.integrations import prolificdreamer
    guidance = prolificdreamer.wrap(StableDiffusion(device, …, opt=opt), lambda_fm=0.01, lambda_kl=0.1)    # main.py

The host's conventions: [uncond, text], e_u + s (e_c − e_u), w = 1 − ᾱ_t, one t for the batch, an optional clamp, NaN to
0. With a second network it distils ε̂ − ε_q (VSD) in place of ε̂ − ε, and v′ of feature matching moves along the same
field: what the paper calls the residual is what is distilled.

The host's own loss ignores what comes in from above, so that under a GradScaler its gradient is not scaled while all
others are. `mode="gradient"` keeps that; `mode="loss"` returns a proper loss, beside which the other weights of a run
in half precision mean what they say and have to be tuned anew.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.inputs import rows_for
from ..losses.functional import perturb
from ._adapter import HostGuidance
from ._core import predict_residual

ANNEALED = 500  # the host's largest t once `t5` is on


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its modules, steps and `opt` are read at every step.
        **keywords: as every adapter's, see `Adapter`; mode `gradient`, the default, is how the host's loss behaves.
            `prediction` is of the first network, the host's `opt.v_pred` of the second.
    """

    MODE = "gradient"
    NEEDS = ("encode_imgs", "min_step", "max_step", "opt")

    def train_step(
        self,
        text_embeddings: Tensor,
        pred_rgb: Tensor,
        guidance_scale: float = 100,
        q_unet: Any = None,
        pose: Tensor | None = None,
        shading: Any = None,
        grad_clip: float | None = None,
        as_latent: bool = False,
        t5: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The host's contract, without its check for NaN, for which it waits for the device.

        Args:
            text_embeddings: [uncond, text]  # [2, L, D], or [2B, L, D]
            pred_rgb: rendered images in [0, 1], or latents where the host renders them  # [B, 3 or 4, H, W]
            guidance_scale: s.
            q_unet: the network of the rendered distribution, with the host's call; None distils ε̂ − ε.
            pose: cameras, for `q_unet`.
            shading: for `q_unet`.
            grad_clip: bound of the elements of what is distilled; not of FM and KL.
            as_latent: takes the images, resized, for latents; FM and KL are left out.
            t5: draws t up to 500.

        Returns:
            The loss, [1] (0, with a gradient) in mode `gradient` and a scalar in mode `loss`; the host's Σ w ε̂ v; the
            latents.

        Raises:
            NotImplementedError: `q_unet` without a pose, as there.
            ValueError: neither 2 nor 2B embeddings, neither one nor B poses, or another number of rows of `q_unet`.
        """
        host, opt = self.host, self.host.opt
        if as_latent:
            latents = F.interpolate(pred_rgb, (64, 64), mode="bilinear", align_corners=False)
        elif opt.latent:
            latents = pred_rgb
        else:
            self.check_units()
            latents = host.encode_imgs(F.interpolate(pred_rgb, (512, 512), mode="bilinear", align_corners=False))
        largest = ANNEALED if t5 else host.max_step
        t = torch.randint(host.min_step, largest + 1, [1], dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        text, schedule = rows_for(text_embeddings, 2, len(latents)), self.schedule(latents.device)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        weight = schedule.weight(t, "dreamfusion")
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t, encoder_hidden_states=text).sample,
            guidance_scale=guidance_scale,
            prediction=self.prediction,
        )
        with torch.no_grad():
            predicted = residual + noise
            if q_unet is not None and not opt.sds:
                if pose is None:
                    raise NotImplementedError("train_step: pose: expected cameras for q_unet, got None")
                if pose.ndim and len(pose) not in (1, len(latents)):
                    raise ValueError(f"pose: expected 1 or {len(latents)} cameras for the latents, got {len(pose)}")
                noisy = perturb(latents, noise, alpha.expand(len(latents)), sigma.expand(len(latents)))
                of_rendered = q_unet(noisy, t, c=pose, shading=shading).sample
                if of_rendered.shape != noisy.shape:
                    raise ValueError(
                        f"q_unet: expected a prediction of the latents' shape {list(noisy.shape)}, "
                        f"got {list(of_rendered.shape)}"
                    )
                if opt.v_pred:
                    of_rendered = alpha * of_rendered + sigma * noisy
                residual = predicted - of_rendered
            pseudo_loss = (weight * predicted * latents.detach()).sum()
        self.losses.clip = grad_clip
        told: dict[str, Any] = {"timesteps": t, "outside": outside, "regularise": not as_latent}
        return self._returned(latents, residual, alpha, weight, **told), pseudo_loss, latents


wrap = Guidance.wrap
