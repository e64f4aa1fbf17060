"""Latent-NeRF and Latent-Paint (eladrich/latent-nerf): one import, and one changed line in `init_diffusion`.

    from ldp_fast.integrations.latent_nerf import wrap
    diffusion_model = wrap(StableDiffusion(self.device, …))

The object stays the host's: `get_text_embeds`, `encode_imgs`, `decode_latents`, its state dict. `train_step` draws t
and ε in the host's order, so that a seed gives the host's numbers, and its score distillation is the host's: [uncond,
text], one t for the batch, w(t) = √ᾱ_t (1 − ᾱ_t), not divided by the batch, not clipped.

There are two modes, because of how the host uses its GradScaler. Its own `train_step` calls `latents.backward`, which
the scaler never sees: `scaler.step` then divides score distillation by the loss scale (65536 at the start), but not the
sparsity and shape losses, which came in scaled. `mode="gradient"` keeps that, quirk and all, and needs no other change;
the regularisers go the way of score distillation, so that the λ's mean what they say. `mode="loss"` returns the
loss and is right under any scaler; the weights of sparsity and shape then have to be multiplied by the scale that they
used to be multiplied by: 5e-4 · 65536 ≈ 33 for the host's sparsity at its first scale. Latent-Paint has no scaler and
never calls `backward` on what `train_step` returns: it takes `mode="gradient"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.inputs import rows_for
from ._adapter import LAMBDAS, HostGuidance
from ._core import predict_residual


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its attributes are read at every step.
        **keywords: as every adapter's, see `Adapter`. In mode `gradient`, the default, the step backpropagates and
            returns 0, as the host's does. Name `prediction="v_prediction"` for checkpoints like Stable Diffusion 2.1
            at 768 pixels, with which the host itself is wrong.
    """

    MODE = "gradient"
    DEFAULTS: ClassVar[Mapping[str, Any]] = {**LAMBDAS, "batch_reduction": "sum"}
    NEEDS = ("latent_mode", "min_step", "max_step", "encode_imgs")

    def train_step(self, text_embeddings: Tensor, inputs: Tensor, guidance_scale: float = 100) -> Tensor | int:
        """The host's contract.

        Args:
            text_embeddings: [uncond, text]  # [2, L, D], or [2B, L, D]
            inputs: rendered latents  # [B, 4, 64, 64]
                or, where the host is not in latent mode, images in [0, 1]  # [B, 3, H, W]
            guidance_scale: s.

        Returns:
            0 in gradient mode, where the gradient is in the graph's leaves already; the loss in loss mode.

        Raises:
            ValueError: neither 2 nor 2B embeddings.
        """
        host = self.host
        latents = inputs
        if not host.latent_mode:
            self.check_units()
            latents = host.encode_imgs(F.interpolate(inputs, (512, 512), mode="bilinear", align_corners=False))
        text, schedule = rows_for(text_embeddings, 2, len(latents)), self.schedule(latents.device)
        t = torch.randint(host.min_step, host.max_step + 1, [1], dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t, encoder_hidden_states=text).sample,
            guidance_scale=guidance_scale,
            prediction=self.prediction,
        )
        weight = schedule.weight(t, "latent_nerf")
        arguments: tuple[Any, ...] = (latents, residual, alpha, weight)
        if self.mode == "loss":
            return self._loss(*arguments, timesteps=t, outside=outside).loss
        gradient = self._gradient(*arguments, timesteps=t, outside=outside)
        # The host differentiates the same graph again, for its other losses.
        latents.backward(gradient=gradient.to(latents.dtype), retain_graph=True)
        return 0


wrap = Guidance.wrap
