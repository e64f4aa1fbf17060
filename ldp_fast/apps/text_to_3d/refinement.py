"""From latents to RGB: the linear layer of Latent-NeRF's refinement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError


class LatentToRgb(nn.Module):
    """A linear layer from C latent channels to RGB in [0, 1].

    Applied to a rendering it does what it would do at every sample: compositing is linear, and the offset counts with
    the opacity.

    Args:
        channels: C.

    Attributes:
        weight: [3, C] parameter.
        offset: [3] parameter.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, channels))
        self.offset = nn.Parameter(torch.full((3,), 0.5))

    def forward(self, latents: Tensor, opacity: Tensor | None = None) -> Tensor:
        """Composited latents [V, C, H, W] and opacity [V, 1, H, W] -> RGB [V, 3, H, W]."""
        offset = self.offset[None, :, None, None]
        rgb = torch.einsum("oc,vchw->vohw", self.weight, latents)
        return rgb + (offset if opacity is None else offset * opacity)

    @torch.no_grad()
    def fit(self, prior: Any) -> float:
        """Sets the layer by least squares to what the prior's own VAE makes of latents.

        Pictures of smooth random colours are encoded; every latent is matched with the mean colour of its pixels.

        Returns:
            The root mean square error over the colours, 0 to 1.

        Raises:
            UsageError: the prior has no VAE.
        """
        if prior.vae is None:
            raise UsageError("vae: the refinement to RGB needs one; got None")
        _, side, _ = prior.latent_shape
        factor = prior.pixels_per_latent
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(16, 3, 4, 4, generator=generator)
        pictures = nn.functional.interpolate(coarse, (side * factor,) * 2, mode="bilinear").to(prior.device)
        latents = torch.cat([prior.encode(x, sample=False) for x in pictures.split(4)])
        colours = nn.functional.avg_pool2d(pictures, factor)
        x = latents.double().permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).cpu()
        y = colours.double().permute(0, 2, 3, 1).reshape(-1, 3).cpu()
        x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        solution = torch.linalg.lstsq(x, y, driver="gelsd").solution
        self.weight.copy_(solution[:-1].T)
        self.offset.copy_(solution[-1])
        return float((x @ solution - y).square().mean().sqrt())
