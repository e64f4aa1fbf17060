"""What a step is given: checks, timesteps and noise as tensors, and the network's conditions from text."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import nn

from .schedule import INTEGERS, check_inside
from .text import TextEmbeddings

Timesteps = torch.Tensor | int | Sequence[int]


def check_latents(latents: torch.Tensor, unet: nn.Module, device: torch.device) -> None:
    """Checks shape, kind and place of v.

    Raises:
        ValueError: not floating, not `[B, C, H, W]` with the network's C, or elsewhere than the network.
    """
    channels = getattr(getattr(unet, "config", None), "in_channels", None)
    if latents.ndim != 4 or not latents.is_floating_point() or (channels and latents.shape[1] != channels):
        raise ValueError(
            f"latents: expected a floating-point tensor [B, {channels or 'C'}, H, W], "
            f"got {latents.dtype} {list(latents.shape)}"
        )
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
        return timesteps.to(device, torch.int64).reshape(-1).expand(batch)
    given = timesteps.tolist() if isinstance(timesteps, (np.ndarray, np.generic)) else timesteps
    numbers = list(given) if isinstance(given, (list, tuple)) else [given]
    for number in numbers:
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, Integral) or not 0 <= number < count:
            raise ValueError(f"timesteps: expected whole numbers from 0 to {count - 1}, got {timesteps!r}")
    if len(numbers) not in (1, batch):
        raise ValueError(f"timesteps: expected 1 or {batch} of them, got {len(numbers)}")
    if len(numbers) == 1:
        return torch.full((batch,), int(numbers[0]), dtype=torch.int64, device=device)
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    return torch.cat([torch.full((1,), int(number), dtype=torch.int64, device=device) for number in numbers])


def check_noise(noise: torch.Tensor, latents: torch.Tensor) -> None:
    """Raises a ValueError unless ε has the latents' shape."""
    if noise.shape != latents.shape:
        raise ValueError(f"noise: expected the latents' shape {list(latents.shape)}, got {list(noise.shape)}")


def draw_noise(latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
    """ε for `latents`, float32 (float64 for float64 latents); a CPU generator draws on the CPU, and ε is moved."""
    where = generator.device if generator is not None else latents.device
    dtype = torch.promote_types(latents.dtype, torch.float32)
    return torch.randn(latents.shape, generator=generator, device=where, dtype=dtype).to(latents.device)


def rows_for(text: torch.Tensor, copies: int, batch: int) -> torch.Tensor:
    """Embeddings that came as a tensor, a row for each sample of each copy: `[copies·batch, L, D]`.

    Raises:
        ValueError: neither `copies` nor `copies·batch` rows.
    """
    if len(text) not in (copies, copies * batch):
        raise ValueError(
            f"text: expected embeddings of {copies} or {copies * batch} rows for {batch} latents, got {len(text)}"
        )
    return text.repeat_interleave(copies * batch // len(text), 0) if len(text) else text


def conditions(
    text: TextEmbeddings | torch.Tensor, batch: int, copies: int, size: torch.Size, order: str, dtype: torch.dtype
) -> tuple[torch.Tensor, dict[str, Any]]:
    """The UNet's text states `[copies·B, L, D]` in the settings' order, and SDXL's extra conditions.

    Args:
        text: embeddings, or the doubled batch as a tensor.
        batch: B.
        copies: 2 with guidance, else 1.
        size: (h, w) of the latents.
        order: `uncond_first` or `text_first`.
        dtype: the network's.

    Raises:
        ValueError: a number of rows that does not fit.
    """
    if isinstance(text, torch.Tensor):
        return rows_for(text, copies, batch).to(dtype), {}
    text = text.expand(batch)
    first: tuple[torch.Tensor, ...] = (text.uncond, text.text)
    second: tuple[Any, ...] = (text.pooled_uncond, text.pooled)
    if copies == 1:
        first, second = (text.text,), (text.pooled,)
    elif order == "text_first":
        first, second = first[::-1], second[::-1]
    states = torch.cat(first).to(dtype)
    if any(pooled is None for pooled in second):
        return states, {}
    # SDXL is told the image's size, no crop, and the target's size.
    height, width = (8.0 * k for k in size)
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    columns = [states.new_full((copies * batch, 1), x) for x in (height, width, 0.0, 0.0, height, width)]
    added = {"text_embeds": torch.cat(second).to(dtype), "time_ids": torch.cat(columns, 1)}
    return states, {"added_cond_kwargs": added}
