"""What stands in a latent diffusion model's place where the field is in RGB already."""

from __future__ import annotations

import torch
from torch import Tensor


class Colours:
    """Decodes RGB to itself.

    Args:
        device: where the scene is.
        size: pixels per side of a view in training.

    Attributes:
        latent_shape: (3, size, size).
        pixels_per_latent: 1.
        vae: None.
    """

    pixels_per_latent = 1
    vae = None

    def __init__(self, device: torch.device | str, size: int):
        self._device = torch.device(device)
        self.latent_shape = (3, size, size)

    @property
    def device(self) -> torch.device:
        """Where the scene is."""
        return self._device

    def decode(self, latents: Tensor) -> Tensor:
        """Colours [B, 3, H, W] as float32 in [0, 1]."""
        return latents.float().clamp(0, 1)

    def encode(self, images: Tensor, *, sample: bool = True) -> Tensor:
        """Images as they are; `sample` is for latents, whose encoder may be random."""
        return images
