"""Inputs of the feature matching operator, for its tests and its benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LAYOUTS = ("contiguous", "channels_last", "sliced", "offset", "strided")

# (C, H, W) of the levels. The small ones are not multiples of a block of 8192, of 16 bytes, or of either.
SMALL = ((3, 5, 7), (32, 20, 21), (8, 4, 4))


def decoder_levels(latent: int = 64) -> tuple[tuple[int, int, int], ...]:
    """(C, H, W) of up0, up1 and up2 of Stable Diffusion's decoder for latents of `latent` x `latent`."""
    return tuple((channels, factor * latent, factor * latent) for channels, factor in ((512, 2), (512, 4), (256, 8)))


def arrange(x: Tensor, layout: str) -> Tensor:
    """The values of `x` [B, C, H, W] in another place in memory."""
    if layout == "contiguous":
        return x.contiguous()
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = x.shape
    if layout == "sliced":  # samples are dense but far apart
        holder = x.new_full((batch, 2, channels, height, width), float("nan"))[:, 1]
    elif layout == "offset":  # dense, but not on a multiple of 16 bytes
        holder = x.new_full((x.numel() + 1,), float("nan"))[1:].view(x.shape)
    elif layout == "strided":  # not dense
        holder = x.new_full((batch, channels, height, 2 * width), float("nan"))[..., ::2]
    else:
        raise ValueError(f"arrange: layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    return holder.copy_(x)


def inputs(
    shapes: Sequence[tuple[int, int, int]] = SMALL,
    *,
    batch: int = 2,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    layout: str = "contiguous",
    layout_prime: str | None = None,
    scale: float = 1.0,
    requires_grad: bool = True,
) -> dict[str, list[Tensor]]:
    """`features` and `features_prime`: lists of [B, C_l, H_l, W_l]; about one element in eight is the same in both."""
    lists: tuple[list[Tensor], list[Tensor]] = ([], [])
    for shape in shapes:
        x = (torch.randn(batch, *shape, device=device) * scale).to(dtype)
        x_prime = torch.where(
            torch.rand_like(x, dtype=torch.float32) < 0.125, x, (torch.randn_like(x) * scale).to(dtype)
        )
        for entries, value, where in zip(lists, (x, x_prime), (layout, layout_prime or layout), strict=True):
            entries.append(arrange(value, where).requires_grad_(requires_grad))
    return dict(zip(("features", "features_prime"), lists, strict=True))


def halves(features: Sequence[Tensor], features_prime: Sequence[Tensor]) -> list[Tensor]:
    """The two lists as one of [2B, C_l, H_l, W_l], in the memory format of `features`."""
    channels_last = features[0].is_contiguous(memory_format=torch.channels_last)
    both = [torch.cat(pair).detach() for pair in zip(features, features_prime, strict=True)]
    return [arrange(x, "channels_last" if channels_last else "contiguous").requires_grad_() for x in both]
