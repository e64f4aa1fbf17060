"""LPIPS towards the source's pictures, with a gradient; or a distance of its form through other networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....metrics.lpips_networks import Levels
from .pictures import resized

_LENGTH = 1e-10  # added to a length before it divides, as lpips does


class Perceptual:
    """Σ_l mean_p Σ_c w_lc (â − b̂)² of pictures a, b: LPIPS 0.1 with `alex` and `vgg`, "lpips-like" with others.

    Args:
        levels: the network, of `metrics.lpips_networks.load_levels`.
        size: (h, w) of the pictures; they are resized to what the network is made for where it cannot take that.

    Attributes:
        name: "LPIPS 0.1 (vgg), 512 px", "lpips-like (vae:primitives), 128 px".
    """

    def __init__(self, levels: Levels, size: tuple[int, int]):
        self._levels = levels
        fits = size[0] == size[1] and not levels.refuse(size[0])
        self._size = size if fits else (levels.side, levels.side)
        kind = "LPIPS 0.1" if levels.calibrated else "lpips-like"
        self.name = f"{kind} ({levels.name}), {self._size[0]} px"

    @property
    def networks(self) -> list[nn.Module]:
        """What the pictures go through."""
        held = vars(self._levels).values()
        inner = (getattr(getattr(x, "towers", None), "network", x) for x in held)  # a CLIP is not a module, and has one
        return [x for x in inner if isinstance(x, nn.Module)]

    def _features(self, pictures: Tensor) -> list[Tensor]:
        found = []
        for level in self._levels(resized(pictures, self._size) / 2 + 0.5):
            # Its gradient at a position of zeros is 0, where that of a square root is not finite.
            length = torch.linalg.vector_norm(level, dim=1, keepdim=True)
            found.append(level / (length + _LENGTH))
        return found

    def gradient(self, pictures: Tensor, sources: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the sum over the samples, and each one's distance.

        Args:
            pictures, sources: [B, 3, h, w] in [-1, 1], without a graph.

        Returns:
            [B, 3, h, w] and [B].
        """
        with torch.no_grad():
            wanted = self._features(sources)
        leaf = pictures.detach().requires_grad_()
        with torch.enable_grad():
            distances = pictures.new_zeros(len(pictures))
            for a, b, weights in zip(self._features(leaf), wanted, self._levels.weights, strict=True):
                distances = distances + ((a - b).square() * weights.view(1, -1, 1, 1)).sum(1).mean((1, 2))
            (found,) = torch.autograd.grad(distances.sum(), leaf)
        return found, distances.detach()
