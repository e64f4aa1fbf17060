"""What lies behind the volume: a constant, a learned image, or a small network of the ray's direction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks


class ConstantBackground(nn.Module):
    """The same C values everywhere, not trained.

    Args:
        values: C numbers, in the units of the field's channels (latents, or RGB).

    Raises:
        ValueError: no numbers, or numbers that are not finite.
    """

    def __init__(self, values: Sequence[float] | Tensor):
        super().__init__()
        given = checks.values("ConstantBackground", "values", values, "C finite numbers", torch.float32).flatten()
        if not len(given) or not given.isfinite().all():
            checks.fail("ConstantBackground", "values", "C finite numbers", str(given.tolist()))
        self.values: Tensor
        # A copy: the caller's tensor may change afterwards. Where other modules' values are made by default.
        self.register_buffer("values", given.to(torch.get_default_device(), copy=True))

    def forward(self, directions: Tensor, height: int, width: int) -> Tensor:
        """Directions [V·H·W, 3] -> values [V·H·W, C]."""
        return self.values.expand(len(directions), -1)


class LearnedBackground(nn.Module):
    """A learned picture that stands behind every view (SJC's background texture), or a learned constant (size 1).

    Args:
        channels: C.
        size: texels per side; resized bilinearly to the view.
        scale: standard deviation of the initial values.

    Raises:
        ValueError: channels or size below 1, or a scale that is not finite and at least 0.
    """

    def __init__(self, channels: int = 4, size: int = 1, scale: float = 0.0):
        super().__init__()
        name = "LearnedBackground"
        channels, size = checks.whole(name, "channels", channels, 1), checks.whole(name, "size", size, 1)
        scale = checks.number(name, "scale", scale, 0.0)
        self.values = nn.Parameter(torch.randn(1, channels, size, size) * scale)

    def forward(self, directions: Tensor, height: int, width: int) -> Tensor:
        """Directions [V·H·W, 3] -> values [V·H·W, C], the same for each of the V views."""
        picture: Tensor = self.values
        if picture.shape[-1] > 1:
            picture = F.interpolate(picture, (height, width), mode="bilinear", align_corners=False)
        else:
            picture = picture.expand(-1, -1, height, width)
        pixels = picture[0].flatten(1).T  # [H*W, C]
        return pixels.repeat(len(directions) // max(height * width, 1), 1)


class DirectionalBackground(nn.Module):
    """A small network of the direction: sines and cosines, one hidden layer (latent-nerf's background).

    It is kept small on purpose: a large one learns the prompt instead of the object.

    Args:
        channels: C.
        hidden: units of the hidden layer.
        frequencies: n; the direction enters as itself and as sines and cosines of 2^0 … 2^(n−1) times it.

    Raises:
        ValueError: a size below 1, or frequencies outside 0 to 24.
    """

    def __init__(self, channels: int = 4, hidden: int = 64, frequencies: int = 6):
        super().__init__()
        name = "DirectionalBackground"
        channels, hidden = checks.whole(name, "channels", channels, 1), checks.whole(name, "hidden", hidden, 1)
        self.frequencies = frequencies = checks.whole(name, "frequencies", frequencies, 0, 24)
        self.layers = nn.Sequential(nn.Linear(3 + 6 * frequencies, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, directions: Tensor, height: int, width: int) -> Tensor:
        """Directions [V·H·W, 3] of length 1 -> values [V·H·W, C]."""
        # Built from whole numbers: exact on every device, and nothing is copied to it.
        powers = torch.arange(self.frequencies, device=directions.device, dtype=directions.dtype).exp2()
        angles = (directions[:, None, :] * powers[:, None]).flatten(1)
        return self.layers(torch.cat([directions, angles.sin(), angles.cos()], dim=-1))
