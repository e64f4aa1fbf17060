"""stable-dreamfusion (ashawkey/stable-dreamfusion): one import, and one changed line in `main.py`.

    from ldp_fast.integrations.stable_dreamfusion import wrap
    guidance['SD'] = wrap(StableDiffusion(device, opt.fp16, opt.vram_O, …))

The object stays the host's; `train_step` and `train_step_perpneg` are ours. They draw t and ε in the host's order, and
their score distillation is the host's: [uncond, pos], a t a sample, w(t) = 1 − ᾱ_t, divided by the batch, `grad_scale`,
non-finite elements out. With Perp-Neg nothing waits for the device (the host asserts that the first weight is 1, and
asks for every negative whether any sample has it). Feature matching and KL are left out of `as_latent` steps, whose
latents are normals and a mask and not the diffusion model's.

What is returned is a loss, as the host's is. Its value is the mean-type number of docs/mathematics.md and not half the
square norm of the gradient, as the host's; its gradient is the host's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..guidance.inputs import rows_for
from ._adapter import HostGuidance
from ._core import predict_residual

# The host takes smaller weights of negatives for 0.
SMALLEST_WEIGHT = 1e-4


class Guidance(HostGuidance):
    """The host's steps with the paper's losses.

    Args:
        host: the host's `StableDiffusion` of `guidance/sd_utils.py`; its attributes are read at every step.
        **keywords: as every adapter's, see `Adapter`. Name `prediction="v_prediction"` for checkpoints like Stable
            Diffusion 2.1 at 768 pixels, which the host takes for one of ε.
    """

    METHODS = ("train_step", "train_step_perpneg")
    NEEDS = ("min_step", "max_step", "encode_imgs")

    def train_step(
        self,
        text_embeddings: Tensor,
        pred_rgb: Tensor,
        guidance_scale: float = 100,
        as_latent: bool = False,
        grad_scale: float = 1,
        save_guidance_path: Any = None,
    ) -> Tensor:
        """The host's contract.

        Args:
            text_embeddings: [uncond, pos]  # [2B, L, D], or [2, L, D] for all samples
            pred_rgb: rendered images in [0, 1]  # [B, 3, H, W]
                or, with `as_latent`, normals and mask  # [B, 4, H, W]
            guidance_scale: s.
            as_latent: the rendering, resized and stretched to [−1, 1], is the latent; no feature matching, no KL.
            grad_scale: factor of the loss.
            save_guidance_path: file to which the rendering, z_t and the denoised latents are written, decoded.

        Returns:
            The loss, a scalar; in gradient mode a 0 [1] that carries the gradient.

        Raises:
            ValueError: another number of embeddings.
        """
        return self._step(text_embeddings, None, pred_rgb, guidance_scale, as_latent, grad_scale, save_guidance_path)

    def train_step_perpneg(
        self,
        text_embeddings: Tensor,
        weights: Tensor,
        pred_rgb: Tensor,
        guidance_scale: float = 100,
        as_latent: bool = False,
        grad_scale: float = 1,
        save_guidance_path: Any = None,
    ) -> Tensor:
        """The host's contract with Perp-Neg.

        Args:
            text_embeddings: [uncond, pos, neg_1, …], each for the whole batch  # [(1 + K)·B, L, D]
            weights: of pos (1 by definition, and not read), neg_1, …, in the same order  # [K·B]
            pred_rgb, guidance_scale, as_latent, grad_scale, save_guidance_path: as `train_step`.

        Returns:
            As `train_step`.

        Raises:
            ValueError: weights that are not one a sample of each of the texts behind the first, or another number of
                embeddings than that makes.
        """
        batch = len(pred_rgb)
        if weights.numel() == 0 or weights.numel() % max(batch, 1):
            raise ValueError(
                f"weights: expected one for each of {batch} samples of pos and of each negative, got {weights.numel()}"
            )
        negative = weights.detach().float().view(-1, batch)[1:].T
        negative = torch.where(negative.abs() > SMALLEST_WEIGHT, negative, torch.zeros_like(negative))
        return self._step(
            text_embeddings,
            negative if negative.shape[1] else None,
            pred_rgb,
            guidance_scale,
            as_latent,
            grad_scale,
            save_guidance_path,
        )

    def _step(
        self,
        text: Tensor,
        negative_weights: Tensor | None,
        pred_rgb: Tensor,
        guidance_scale: float,
        as_latent: bool,
        grad_scale: float,
        save_guidance_path: Any,
    ) -> Tensor:
        host = self.host
        if as_latent:
            latents = F.interpolate(pred_rgb, (64, 64), mode="bilinear", align_corners=False) * 2 - 1
        else:
            self.check_units()
            latents = host.encode_imgs(F.interpolate(pred_rgb, (512, 512), mode="bilinear", align_corners=False))
        batch = len(latents)
        text = rows_for(text, 2 if negative_weights is None else 2 + negative_weights.shape[1], batch)
        schedule = self.schedule(latents.device)
        t = torch.randint(host.min_step, host.max_step + 1, (batch,), dtype=torch.long, device=latents.device)
        noise = torch.randn_like(latents)
        t, outside = schedule.inside(t, self.prediction)
        alpha, sigma = schedule.gather(t)
        residual = predict_residual(
            latents,
            noise,
            alpha,
            sigma,
            lambda z: host.unet(z, t.repeat(len(z) // batch), encoder_hidden_states=text).sample,
            guidance_scale=guidance_scale,
            prediction=self.prediction,
            negative_weights=negative_weights,
        )
        if save_guidance_path:
            _save_pictures(host.decode_latents, save_guidance_path, latents, noise, residual, alpha, sigma)
        weight = schedule.weight(t, "dreamfusion")
        told: dict[str, Any] = {"timesteps": t, "outside": outside, "regularise": not as_latent}
        return self._returned(latents, residual, alpha, weight, factor=grad_scale, **told)


@torch.no_grad()
def _save_pictures(
    decode: Callable[[Tensor], Tensor],
    path: Any,
    latents: Tensor,
    noise: Tensor,
    residual: Tensor,
    alpha: Tensor,
    sigma: Tensor,
) -> None:
    """v, z_t and (z_t − σ ε̂)/α, decoded, side by side; with the host's torchvision."""
    from torchvision.utils import save_image

    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    noisy = a * latents + s * noise
    denoised = (noisy - s * (residual + noise)) / a
    save_image(torch.cat([decode(x.to(latents.dtype)) for x in (latents, noisy, denoised)]), path)


wrap = Guidance.wrap
