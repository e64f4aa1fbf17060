"""Pictures on their way to a network, and a gradient on its way back: size, range, outliers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers that torch.quantile takes.
MOST = 2**24


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures [B, 3, H, W] bilinearly at another size (h, w), antialiased where they shrink; differentiable."""
    now = tuple(pictures.shape[-2:])
    if now == size:
        return pictures
    shrinks = now[0] > size[0] or now[1] > size[1]
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=shrinks)


def shown(pictures: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Pictures as a network sees them: resized, clamped to [-1, 1], float32, without a graph."""
    with torch.no_grad():
        pictures = pictures.float()
        return (pictures if size is None else resized(pictures, size)).clamp(-1, 1)


def through(pictures: Tensor, size: tuple[int, int], gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """dL/d pictures, where a gradient is known for the pictures as a network sees them (`shown`).

    The clamp is straight: what lies outside of [-1, 1] gets the gradient of what it was clamped to, so that it can come
    back. StyleGANFusion clamps with a gradient of 0 there.

    Args:
        pictures: [B, 3, H, W]; only the values are read.
        size: (h, w) that they are resized to.
        gradient: dL/dx of x, the pictures at that size within [-1, 1].

    Returns:
        Float32 [B, 3, H, W].
    """
    leaf = pictures.detach().float().requires_grad_()
    with torch.enable_grad():
        there = resized(leaf, size)
    found = gradient(there.detach().clamp(-1, 1))
    if there is leaf:
        return found
    return torch.autograd.grad(there, leaf, found)[0]


def clipped(gradient: Tensor, share: float | None) -> Tensor:
    """A gradient [B, …] whose elements are bounded by the quantile of their magnitudes in their sample.

    StyleGANFusion bounds the pixels' gradient by its quantile 0.95. Nothing waits for the device.

    Args:
        gradient: any number of elements a sample.
        share: of the elements that stay as they are, 0 to 1; None leaves all.
    """
    if share is None:
        return gradient
    bounds = torch.stack([quantile(row, share) for row in gradient.abs().flatten(1)])
    bounds = bounds.view(-1, *[1] * (gradient.ndim - 1))
    return gradient.clamp(-bounds, bounds)


def quantile(row: Tensor, share: float) -> Tensor:
    """`torch.quantile`, which refuses more than 16 million numbers, of any number of them.

    Args:
        row: [N] float32 or float64.
        share: from 0 to 1.

    Returns:
        A scalar: between the two sorted numbers that the place share · (N − 1) lies between; NaN where there is one.
    """
    if len(row) <= MOST:
        return torch.quantile(row, share)
    ordered = row.sort().values
    place = share * (len(row) - 1)
    below = min(int(place), len(row) - 2)
    found = torch.lerp(ordered[below], ordered[below + 1], place - below)
    return torch.where(ordered[-1].isnan(), ordered[-1], found)  # NaN is sorted to the end


def norms(gradient: Tensor) -> Tensor:
    """Euclidean norm of each sample, [B]."""
    return gradient.flatten(1).norm(dim=1)
