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

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..guidance import PriorStatistics
from ..guidance.inputs import rows_for
from ._core import Mode, predict_residual
from ._host import HostGuidance, install


class Guidance(HostGuidance):
    """The host's step with the paper's losses.

    Args:
        host: the host's `StableDiffusion`; its attributes are read at every step.
        mode: `gradient` backpropagates inside the step and returns 0, as the host does; `loss` returns the loss.
        lambda_fm: λ1, the paper's 0.01 for this host.
        lambda_kl: λ2, the paper's 0.1.
        lambda_lsd: λ3.
        prediction: what the network predicts. The host takes every network for one of ε; name `v_prediction` for
            checkpoints like Stable Diffusion 2.1 at 768 pixels, with which the host itself is wrong.
        **options: of `HostLosses`: levels, memory, decoder_dtype, clip, nonfinite.

    Attributes:
        statistics: of the last step, on the device; None before.

    Raises:
        UsageError: an unknown mode, or an object that is not the host's.
    """

    NEEDS = ("latent_mode", "min_step", "max_step", "encode_imgs")

    def __init__(
        self,
        host: Any,
        mode: Mode = "gradient",
        *,
        lambda_fm: float = 0.01,
        lambda_kl: float = 0.1,
        lambda_lsd: float = 1.0,
        prediction: Any = "epsilon",
        **options: Any,
    ):
        if mode not in ("gradient", "loss"):
            raise UsageError(f"mode: expected gradient or loss, got {mode!r}")
        super().__init__(host, lambda_fm, lambda_kl, lambda_lsd, **{"batch_reduction": "sum"} | options)
        self.mode, self.prediction = mode, prediction
        self.statistics: PriorStatistics | None = None

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
        if self.mode == "loss":
            out = self.losses(latents, residual, alpha, weight, timesteps=t, outside=outside)
            self.statistics = out.statistics
            return out.loss
        gradient, self.statistics = self.losses.gradient(latents, residual, alpha, weight, timesteps=t, outside=outside)
        # The host differentiates the same graph again, for its other losses.
        latents.backward(gradient=gradient.to(latents.dtype), retain_graph=True)
        return 0


def wrap(host: Any, mode: Mode = "gradient", **options: Any) -> Any:
    """Puts our `train_step` into the host's object.

    Args:
        host: the host's `StableDiffusion`.
        mode: see `Guidance`.
        **options: of `Guidance`.

    Returns:
        The same object; its attribute `ldp` is the `Guidance`.

    Raises:
        UsageError: it is not the host's object, or an unknown mode.
    """
    return install(Guidance(host, mode, **options), "train_step")
