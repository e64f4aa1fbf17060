"""LPIPS (Zhang et al. 2018, arXiv:1801.03924) of all pairs of many pictures, and between two lists of pictures.

The distance of two pictures is Σ_l mean_p Σ_c w_lc (â_lcp − b̂_lcp)²: l levels of a network, c channels, p positions,
and â features that are brought to length 1 over the channels of a position. With features times √(w_lc / P_l), P_l the
number of positions, it is ‖a − b‖² of vectors. So each picture goes through the network once, and all pairs are
‖a‖² + ‖b‖² − 2a·b: one product of a matrix with itself.
"""

from __future__ import annotations

import functools
import pathlib

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from ..guidance.loading import usable
from .features import Pictures, as_floats, batches
from .lpips_networks import Levels, load_levels
from .pairs import Pairs, all_pairs, pairwise

__all__ = ["Lpips", "Pairs", "all_pairs", "pairwise"]

_BATCH = 8
_LENGTH = 1e-10  # added to a length before it divides, as lpips does


class Lpips:
    """Features of pictures whose squared distances are LPIPS, or a distance of its form.

    With `alex` and `vgg`, and the heads that were fitted to people's judgements, it is LPIPS 0.1. With `clip:…` and
    `vae:…` all levels and channels count alike, nobody has compared it with people's judgements, and it is called
    lpips-like: the two are not interchangeable.

    Args:
        levels: the network.
        side: pixels per side that pictures are resized to; None is what the network is made for.

    Attributes:
        name: for the name of the number: "LPIPS 0.1 (alex), 256 px", "lpips-like (vae:primitives), 128 px".
        side: pixels.
        digest: of weights, in hexadecimal digits; what is kept of features belongs to it and to the name.

    Raises:
        UsageError: the network cannot take pictures of that size.

    Examples:
        >>> import torch
        >>> from ldp_fast.metrics.lpips import Lpips, all_pairs
        >>> lpips = Lpips.load("vae:primitives")
        >>> features = lpips([torch.rand(3, 64, 96), torch.rand(3, 128, 128), torch.rand(3, 128, 128)])
        >>> all_pairs(features).pairs
        3
    """

    def __init__(self, levels: Levels, side: int | None = None):
        self._levels, self.side = levels, side or levels.side
        if expected := levels.refuse(self.side):
            raise UsageError(f"side: expected {expected} pixels, as {levels.name} needs; got {self.side}")
        kind = "LPIPS 0.1" if levels.calibrated else "lpips-like"
        self.name = f"{kind} ({levels.name}), {self.side} px"
        self.digest = levels.digest
        self._device = levels.weights[0].device

    @functools.cached_property
    def dimension(self) -> int:
        """K, numbers a picture."""
        return self._features(torch.zeros(1, 3, self.side, self.side, device=self._device)).shape[1]

    @classmethod
    def load(
        cls,
        backbone: str = "vae:primitives",
        *,
        weights: str | pathlib.Path | None = None,
        heads: str | pathlib.Path | None = None,
        side: int | None = None,
        device: str | torch.device = "cpu",
    ) -> Lpips:
        """Loads a network; AlexNet's and VGG16's weights are never downloaded, those of a hub name are where needed.

        Args:
            backbone: `alex`, `vgg`, `clip:NAME` (see `Clip.load`), or `vae:NAME`, the VAE of an embedded model, of a
                folder or of a hub name.
            weights: for `alex` and `vgg`, torchvision's state dict; None looks into torch's hub cache.
            heads: for `alex` and `vgg`, LPIPS' weights of the channels; None takes those that torchmetrics or lpips
                brings.
            side: pixels per side that pictures are resized to; None is 256 for `alex` and `vgg`, and for the others
                what they are made for.
            device: of the network.

        Raises:
            UsageError: it cannot be loaded; the reason is in the message.
        """
        return cls(load_levels(backbone, weights, heads, usable(device)), side)

    @torch.no_grad()
    def __call__(self, pictures: Pictures) -> Tensor:
        """Features `[N, K]` float32 on the CPU of N pictures (`[N, 3, H, W]`, or N of `[3, H, W]`), in their order.

        Pictures are uint8, or floating in [0, 1]; a sequence may mix sizes. What is not `side`×`side` is resized to it
        (bicubic, antialiased, clamped, its aspect not kept). Features are never to be rounded to half precision: the
        distance is a small difference of large sums. Without gradients.
        """
        found = torch.empty(len(pictures), self.dimension)
        for positions, batch in batches(pictures, _BATCH):
            pixels, size = as_floats(batch.to(self._device)), (self.side, self.side)
            if pixels.shape[-2:] != size:
                pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
            found[positions] = self._features(pixels).cpu()
        return found

    @torch.no_grad()
    def _features(self, pixels: Tensor) -> Tensor:
        scaled = []
        for level, weights in zip(self._levels(pixels), self._levels.weights, strict=True):
            length = level.square().sum(1, keepdim=True).sqrt() + _LENGTH
            factor = (weights / level[0, 0].numel()).sqrt().view(1, -1, 1, 1)
            scaled.append((level / length * factor).flatten(1))
        return torch.cat(scaled, 1)
