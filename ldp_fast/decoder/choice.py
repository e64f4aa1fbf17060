"""Which of the two ways a convolution takes on a CPU: Winograd's of csrc/frozen_conv, or torch's direct one.

Winograd's transforms the weights in every call, 36 numbers (9 where it upsamples) of 9, which only enough pixels are
worth; and its transforms of a tile are worth it with enough channels only. Where either is faster was measured:
`SAME` and `UPSAMPLE` hold the fewest pixels from which Winograd's is not the slower one; docs/decoder.md has the table.
"""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from .. import _settings
from ..ops import extension

# By lanes (AVX-512, AVX2, plain): channels, and the fewest pixels of the batch for at least so many; below: torch's.
Table = dict[int, tuple[tuple[int, int], ...]]
SAME: Table = {
    16: ((64, 384), (32, 1024), (16, 32768)),
    8: ((64, 384), (32, 1024), (16, 32768)),
    4: ((256, 128), (64, 384), (32, 1024), (16, 32768)),
}
# Pixels of the image before it is enlarged.
UPSAMPLE: Table = {
    16: ((256, 64), (64, 128), (32, 2048)),
    8: ((256, 64), (64, 128), (32, 2048)),
    4: ((256, 64), (64, 128), (32, 512)),
}


def winograd_is_faster(x: Tensor, weight: Tensor, kind: str) -> bool:
    """Whether the extension's convolution is the faster one, by the number of pixels, channels and lanes.

    `LDP_FAST_CONV=winograd` or `torch` overrides it.

    Args:
        x: what goes in, [B, C, H, W].
        weight: [O, I, 3, 3].
        kind: `same`, `upsample` or their transposed.
    """
    asked = _settings.convolutions()
    if asked != "auto":
        return asked == "winograd"
    batch, _, height, width = x.shape
    pixels = batch * height * width // (4 if kind == "upsample_transposed" else 1)
    return pixels >= fewest_pixels(kind, min(weight.shape[:2]), cast(Any, extension()).vector_lanes())


def fewest_pixels(kind: str, channels: int, lanes: int) -> float:
    """Pixels of a batch from which Winograd's is taken; infinity for never.

    Args:
        kind: see above.
        channels: the fewer of channels in and out.
        lanes: floats in a vector, 16, 8 or 4.
    """
    table = (UPSAMPLE if kind.startswith("upsample") else SAME)[lanes]
    return next((pixels for least, pixels in table if channels >= least), float("inf"))
