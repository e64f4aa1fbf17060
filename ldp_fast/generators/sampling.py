"""Samples of a generator: each from its seed and its number alone, in batches of any size.

A sample does not depend on how many others are drawn, or with which it shares a batch, up to the last bits of float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from ..runs.seeds import mixed_generator
from .stylegan2 import LARGEST, SMALLEST, Settings, usual_channels

# Samples at a time, and how many numbers the largest layer of all of them together may have: 256 MiB, of which a
# convolution with what goes in and comes out has about five.
BATCH, NUMBERS = 16, 2**26
FIXED, FRESH = "fixed", "fresh"
NOISES = (FIXED, FRESH)
# Two streams of a sample, apart from each other and from those of training, whose last numbers are others.
_LATENT, _NOISE = 1, 2


def latents(seed: int, first: int, count: int, z_dim: int) -> Tensor:
    """The z's of samples `first`, …, `first + count − 1`, from N(0, 1).

    Args:
        seed: of all of them, at least 0.
        first: number of the first one, at least 0.
        count: how many, at least 0.
        z_dim: numbers of a z.

    Returns:
        `[count, z_dim]` float32 on the CPU; each row depends on the seed and its number alone.
    """
    drawn = [torch.randn(z_dim, generator=mixed_generator(seed, first + i, 0, _LATENT)) for i in range(count)]
    return torch.stack(drawn) if drawn else torch.zeros(0, z_dim)


def noises(seed: int, first: int, count: int) -> list[torch.Generator]:
    """What the fresh noise of samples `first`, …, `first + count − 1` is drawn from, on the CPU; one a sample."""
    return [mixed_generator(seed, first + i, 0, _NOISE) for i in range(count)]


def batch_of(generator: Any) -> int:
    """Samples at a time that need at most about 1.5 GB on a CPU, or what one of them needs: 16, of 1024 pixels 2.

    Args:
        generator: a StyleGAN2, whose layers are known; of any other its `resolution`, with StyleGAN2's usual widths,
            and where it does not say that either, 16.
    """
    settings, side = getattr(generator, "settings", None), getattr(generator, "resolution", None)
    if isinstance(settings, Settings):
        largest = max(count * (4 << stage) ** 2 for stage, count in enumerate(settings.channels))
    elif isinstance(side, int):
        power = 1 << (min(max(side, SMALLEST), LARGEST).bit_length() - 1)
        largest = usual_channels(power)[-1] * side**2
    else:
        return BATCH
    return min(BATCH, max(1, NUMBERS // largest))


def pictures(
    generator: Any,
    z: Tensor,
    truncation: float = 1.0,
    batch: int | None = None,
    noise: Sequence[torch.Generator] | None = None,
    first: int = 0,
) -> Tensor:
    """Pictures of a generator, without gradients.

    Args:
        generator: a StyleGAN2, or any module with `mapping(z)` and `synthesis(w)`; with `mapping(z, truncation)` for
            a truncation other than 1, and `synthesis(w, noise=…)` for noise.
        z: `[N, Z]`, of any device and dtype.
        truncation: how far w goes from its mean, 0 to 1 (above 1: farther than training).
        batch: samples at a time; None: see `batch_of`.
        noise: one a sample, as `noises` gives them; None: the generator's own, which is fixed.
        first: number of the first sample, for messages.

    Returns:
        `[N, 3, R, R]` float32 in [0, 1] on the CPU; values beyond are clamped.

    Raises:
        UsageError: a picture is not finite.
    """
    weight = next(iter(generator.parameters()))
    batch = batch or batch_of(generator)
    found = []
    with torch.no_grad():
        for start in range(0, len(z), batch):
            part = z[start : start + batch].to(weight.device, weight.dtype)
            # What is not asked for is not passed, so that a generator of somebody else's may lack it.
            w = generator.mapping(part) if truncation == 1 else generator.mapping(part, truncation)
            more = {} if noise is None else {"noise": noise[start : start + batch]}
            images = in_unit_range(generator.synthesis(w, **more)).cpu()
            if not bool(images.isfinite().all()):
                last = first + start + len(part) - 1
                raise UsageError(f"generator: samples {first + start} to {last} came out with NaN or infinity")
            found.append(images)
    return torch.cat(found) if found else torch.zeros(0, 3, 0, 0)


def file_name(index: int) -> str:
    """Of the file of a sample, by its number."""
    return f"{index:06d}.png"


def in_unit_range(images: Tensor) -> Tensor:
    """Images about [−1, 1] as float32 in [0, 1], clamped; NaN stays NaN, and infinity becomes it."""
    halves = images.float() / 2 + 0.5
    # A clamp alone would make a diverged generator's infinity a plain white.
    return torch.where(halves.isfinite(), halves.clamp(0, 1), torch.nan)
