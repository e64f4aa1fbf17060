"""From latents to RGB: the linear layer of Latent-NeRF's refinement."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError

# How many times a latent of the object itself counts in the fit.
OWN = 4.0
# Pictures of random colours in the fit.
PICTURES = 16


def check_vae(prior: Any) -> None:
    """Checks that a prior can refine to RGB.

    Raises:
        UsageError: it lacks a VAE.
    """
    if prior.vae is None:
        raise UsageError("vae: the refinement to RGB needs one; got None")


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
    def fit(self, prior: Any, latents: Tensor | None = None, pictures: int = PICTURES) -> float:
        """Sets the layer by least squares to what the prior's own VAE makes of latents.

        Pictures of smooth random colours are encoded, and the object's own latents are decoded: every latent is matched
        with the mean colour of its pixels. The object's count `OWN` times as much; alone they would leave colours that
        it does not have undetermined.

        Args:
            prior: with the VAE.
            latents: renderings of the object, `[V, C, h, w]`.
            pictures: how many of random colours.

        Returns:
            The root mean square error over the colours, 0 to 1.

        Raises:
            UsageError: the prior lacks a VAE.
        """
        check_vae(prior)
        _, side, _ = prior.latent_shape
        factor = prior.pixels_per_latent
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(pictures, 3, 4, 4, generator=generator)
        coloured = nn.functional.interpolate(coarse, (side * factor,) * 2, mode="bilinear").to(prior.device)
        pairs = [(prior.encode(x, sample=False), x, 1.0) for x in coloured.split(1)]
        for own in () if latents is None else latents.split(1):
            pairs.append((own, prior.decode(own), OWN))
        inputs, wanted = [], []
        for found, picture, weight in pairs:
            x = found.double().permute(0, 2, 3, 1).reshape(-1, found.shape[1]).cpu()
            y = nn.functional.avg_pool2d(picture, factor).double().permute(0, 2, 3, 1).reshape(-1, 3).cpu()
            inputs.append(weight * torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1))
            wanted.append(weight * y)
        a, b = torch.cat(inputs), torch.cat(wanted)
        solution = torch.linalg.lstsq(a, b, driver="gelsd").solution
        self.weight.copy_(solution[:-1].T)
        self.offset.copy_(solution[-1])
        return float((a @ solution - b).square().mean().sqrt())
