"""How saturated an image is: the effect that the paper's KL regulariser is there to mitigate (§4.2, Fig. 7)."""

from __future__ import annotations

import torch


def saturation(images: torch.Tensor) -> torch.Tensor:
    """Mean HSV saturation, (max − min) / max over the channels, of each image.

    Args:
        images: `[B, 3, H, W]` in [0, 1].

    Returns:
        `[B]`, 0 (grey) to 1 (pure colours).
    """
    high, low = images.amax(1), images.amin(1)
    return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))


def clipped_fraction(images: torch.Tensor) -> torch.Tensor:
    """Fraction of channel values within 1/255 of 0 or of 1, of each image: what over-saturation burns out.

    Args:
        images: `[B, 3, H, W]` in [0, 1].

    Returns:
        `[B]`, 0 to 1.
    """
    return ((images < 1 / 255) | (images > 254 / 255)).float().mean((1, 2, 3))
