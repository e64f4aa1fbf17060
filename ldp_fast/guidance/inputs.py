"""What a step is given: checks, timesteps and noise as tensors, and the network's conditions from text."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from .check import Wanted, bare, configured
from .schedule import INTEGERS, check_inside
from .text import TextEmbeddings
from .text import rows_for as rows_for

Timesteps = torch.Tensor | int | Sequence[int]


def check_latents(latents: torch.Tensor, unet: nn.Module, device: torch.device) -> None:
    """Checks shape, kind and place of v.

    Raises:
        ValueError: not floating, not `[B, C, H, W]` with the network's C, no sample, or elsewhere than the network.
    """
    channels = configured(bare(unet), "in_channels")
    if latents.ndim != 4 or not latents.is_floating_point() or (channels and latents.shape[1] != channels):
        raise ValueError(
            f"latents: expected a floating-point tensor [B, {channels or 'C'}, H, W], "
            f"got {latents.dtype} {list(latents.shape)}"
        )
    if not len(latents):
        # Whatever diffusers' networks reshape fails on it, with a sentence of their own.
        raise ValueError("latents: expected at least one sample, got an empty batch")
    if latents.device != device:
        raise ValueError(f"latents: expected them on {device}, where the UNet is, got {latents.device}")


def as_timesteps(timesteps: Timesteps, batch: int, device: torch.device, count: int) -> torch.Tensor:
    """One number, or one a sample, as `[batch]` int64 on `device`. A tensor on a device is not looked at.

    Raises:
        ValueError: a number outside of the schedule, no whole number, or another length or kind of them.
    """
    if isinstance(timesteps, torch.Tensor):
        if timesteps.dtype not in INTEGERS or timesteps.numel() not in (1, batch):
            raise ValueError(
                f"timesteps: expected 1 or {batch} integers (signed), got {timesteps.dtype} {list(timesteps.shape)}"
            )
        check_inside(timesteps, 0, count)
        return timesteps.to(device).to(torch.int64).reshape(-1).expand(batch)
    given: Any = timesteps.tolist() if isinstance(timesteps, (np.ndarray, np.generic)) else timesteps
    numbers: list[Any] = list(given) if isinstance(given, Sequence) and not isinstance(given, (str, bytes)) else [given]
    for number in numbers:
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, Integral) or not 0 <= int(number) < count:
            raise ValueError(f"timesteps: expected whole numbers from 0 to {count - 1}, got {timesteps!r}")
    if len(numbers) not in (1, batch):
        raise ValueError(f"timesteps: expected 1 or {batch} of them, got {len(numbers)}")
    if len(numbers) == 1:
        return torch.full((batch,), int(numbers[0]), dtype=torch.int64, device=device)
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    return torch.cat([torch.full((1,), int(number), dtype=torch.int64, device=device) for number in numbers])


def noise_shape(latents: torch.Tensor, noises: int) -> torch.Size:
    """`[K·B, C, H, W]`: row k·B + b is the k-th ε of sample b."""
    return torch.Size((noises * len(latents), *latents.shape[1:]))


def stack_noises(of_samples: Sequence[torch.Tensor]) -> torch.Tensor:
    """ε of a batch, `[K·B, C, H, W]` as `noise_shape` has it, from the K of each sample, `[K, C, H, W]`."""
    return torch.stack(list(of_samples), 1).flatten(0, 1)


def mean_over_noises(x: torch.Tensor, noises: int) -> torch.Tensor:
    """The mean over the K of each sample, `[B, …]`, of rows as `noise_shape` has them, `[K·B, …]`."""
    return x if noises == 1 else x.unflatten(0, (noises, -1)).mean(0)


def check_noise(noise: torch.Tensor, latents: torch.Tensor, noises: int) -> None:
    """Raises a ValueError unless ε has the latents' shape, `noises` times over along the batch."""
    shape = noise_shape(latents, noises)
    if noise.shape != shape:
        what = "the latents' shape" if noises == 1 else f"{noises} of the latents' shape,"
        raise ValueError(f"noise: expected {what} {list(shape)}, got {list(noise.shape)}")


def draw_noise(latents: torch.Tensor, noises: int, generator: torch.Generator | None) -> torch.Tensor:
    """ε for `latents`, float32 (float64 for float64 latents); a CPU generator draws on the CPU, and ε is moved."""
    where = generator.device if generator is not None else latents.device
    dtype = torch.promote_types(latents.dtype, torch.float32)
    return torch.randn(noise_shape(latents, noises), generator=generator, device=where, dtype=dtype).to(latents.device)


def check_text(text: Any) -> None:
    """Raises a TypeError unless `text` is what a step takes, and a ValueError if it is a tensor of another rank."""
    if not isinstance(text, TextEmbeddings | torch.Tensor):
        raise TypeError(
            f"text: expected the TextEmbeddings of prior.encode_prompt(…), or a tensor of embeddings, "
            f"got {type(text).__name__}"
        )
    if isinstance(text, torch.Tensor) and text.ndim != 3:
        raise ValueError(f"text: expected embeddings of shape [rows, L, D], got {list(text.shape)}")


def check_generator(generator: Any) -> None:
    """Raises a TypeError unless `generator` is one or None; a list of them is not served."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator: expected one torch.Generator for all samples, or None, got {type(generator).__name__}; "
            f"noise= and timesteps= take what was drawn a sample"
        )


def conditions(
    text: TextEmbeddings | torch.Tensor,
    batch: int,
    copies: int,
    size: torch.Size,
    order: str,
    dtype: torch.dtype,
    wanted: Wanted,
    factor: int,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The UNet's text states `[copies·B, L, D]` in the settings' order, and SDXL's extra conditions.

    Args:
        text: embeddings, or the doubled batch as a tensor.
        batch: B.
        copies: 2 with guidance, else 1.
        size: (h, w) of the latents.
        order: `uncond_first` or `text_first`.
        dtype: the network's.
        wanted: what the network wants of them.
        factor: pixels along one side of a latent.

    Raises:
        TypeError: something other than embeddings.
        ValueError: a number of rows, a width or a kind of embeddings that does not fit.
    """
    check_text(text)
    second: tuple[Any, ...] = (None,)
    if isinstance(text, torch.Tensor):
        states = rows_for(text, copies, batch)
    else:
        text = text.expand(batch)
        first: tuple[torch.Tensor, ...] = (text.uncond, text.text)
        second = (text.pooled_uncond, text.pooled)
        if copies == 1:
            first, second = (text.text,), (text.pooled,)
        elif order == "text_first":
            first, second = first[::-1], second[::-1]
        states = torch.cat(first)
    if wanted.width is not None and states.shape[-1] != wanted.width:
        raise ValueError(f"text: expected embeddings of the UNet's width {wanted.width}, got {states.shape[-1]}")
    states = states.to(dtype)
    if any(pooled is None for pooled in second):
        if wanted.pooled:
            raise ValueError(
                f"text: this UNet (SDXL's) wants pooled embeddings too: expected TextEmbeddings with pooled and "
                f"pooled_uncond (prior.encode_prompt(…)), got a {type(text).__name__} without"
            )
        return states, {}
    pooled = torch.cat(second)
    _check_pooled(pooled, wanted)
    # SDXL is told the image's size, no crop, and the target's size.
    height, width = (float(factor * k) for k in size)
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    columns = [states.new_full((copies * batch, 1), x) for x in (height, width, 0.0, 0.0, height, width)]
    added = {"text_embeds": pooled.to(dtype), "time_ids": torch.cat(columns, 1)}
    return states, {"added_cond_kwargs": added}


def _check_pooled(pooled: torch.Tensor, wanted: Wanted) -> None:
    if wanted.pooled_width is None or wanted.pooled_width == pooled.shape[-1]:
        return
    refiner = pooled.shape[-1] == wanted.pooled_width + wanted.time_width
    raise ValueError(
        f"text.pooled: expected pooled embeddings of the UNet's width {wanted.pooled_width}, got {pooled.shape[-1]}"
        + (": it wants five numbers of size, crop and aesthetic score (SDXL's refiner), not six" if refiner else "")
    )
