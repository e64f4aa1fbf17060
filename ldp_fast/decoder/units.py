"""Between the latents of a diffusion model and those of its VAE: one gain and one offset a channel."""

from __future__ import annotations

import dataclasses
import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class LatentUnits:
    """z = v · std / scaling + mean + shift, as diffusers' pipelines do before they decode, and back.

    Attributes:
        scaling: `scaling_factor`.
        shift: `shift_factor` (Stable Diffusion 3, Flux).
        mean: `latents_mean` of each channel (Playground 2.5), empty where the VAE has none.
        std: `latents_std`, as `mean`.
    """

    scaling: float
    shift: float = 0.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, vae: Any, scaling: float | None = None, shift: float | None = None) -> LatentUnits:
        """Those of a VAE's configuration.

        Args:
            vae: with diffusers' `config`, or without one.
            scaling: in place of `scaling_factor`.
            shift: in place of `shift_factor`.

        Raises:
            ValueError: there is no scaling factor to be found, one that is not positive, a mean without a standard
                deviation, or values that are not numbers.
        """
        config = getattr(vae, "config", None)
        scaling = getattr(config, "scaling_factor", None) if scaling is None else scaling
        shift = getattr(config, "shift_factor", None) if shift is None else shift
        if scaling is None:
            kind = type(vae).__name__
            there = (
                f"{kind} has no configuration" if config is None else f"the configuration of {kind} has no such entry"
            )
            raise ValueError(
                f"scaling_factor: {there} to take it from; expected a number (Stable Diffusion 1.x and 2.x: 0.18215), "
                "got None"
            )
        mean, std = (_numbers(name, getattr(config, name, None)) for name in ("latents_mean", "latents_std"))
        if len(mean) != len(std):
            raise ValueError(
                f"vae: expected latents_mean and latents_std of one length in its configuration, got "
                f"{len(mean)} and {len(std)} numbers"
            )
        gain, offset = _number("scaling_factor", scaling, positive=True), _number("shift_factor", shift or 0.0)
        return cls(gain, offset, mean, std)

    @property
    def per_channel(self) -> bool:
        """Whether channels differ."""
        return bool(self.mean)

    @property
    def adds(self) -> bool:
        """Whether anything is added."""
        return self.shift != 0 or any(self.mean)

    def gain(self, like: Tensor) -> Tensor | float:
        """What v is multiplied by, a number or [C, 1, 1]."""
        return _column(self.std, like) / self.scaling if self.std else 1 / self.scaling

    def offset(self, like: Tensor) -> Tensor | float:
        """What is added then, a number or [C, 1, 1]."""
        return _column(self.mean, like) + self.shift if self.mean else self.shift

    def to_vae(self, latents: Tensor) -> Tensor:
        """The VAE's latents of the diffusion model's, [B, C, h, w]; differentiable."""
        self.check(latents)
        # Divided, as the pipelines do it, where the numbers allow it.
        scaled = latents * _column(self.std, latents) / self.scaling if self.std else latents / self.scaling
        return scaled + self.offset(latents) if self.adds else scaled

    def from_vae(self, latents: Tensor) -> Tensor:
        """The diffusion model's latents of the VAE's, [B, C, h, w]; differentiable."""
        self.check(latents)
        moved = latents - self.offset(latents) if self.adds else latents
        return moved * self.scaling / _column(self.std, latents) if self.std else moved * self.scaling

    def check(self, latents: Tensor) -> None:
        """Raises a ValueError unless the latents have the channels of the configuration."""
        if self.per_channel and latents.shape[1] != len(self.mean):
            raise ValueError(
                f"latents: expected {len(self.mean)} channels, as the VAE's latents_mean has, got {list(latents.shape)}"
            )


def _number(name: str, value: Any, *, positive: bool = False) -> float:
    """A number of a configuration; a tensor of one element is one (CompVis)."""
    tensor = isinstance(value, Tensor) and value.numel() == 1 and value.dtype != torch.bool and not value.is_complex()
    number = float(value) if tensor or (isinstance(value, Real) and not isinstance(value, bool)) else math.nan
    if not math.isfinite(number) or (positive and number <= 0):
        raise ValueError(f"{name}: expected a {'positive' if positive else 'finite'} number, got {value!r}")
    return number


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    """One number a channel, however they are nested; none of None."""
    if values is None:
        return ()
    try:
        found = torch.as_tensor(values, dtype=torch.float64, device="cpu").flatten().tolist()
    except (TypeError, ValueError, RuntimeError):
        found = [math.nan]
    if not all(math.isfinite(x) and (x > 0 or name != "latents_std") for x in found):
        raise ValueError(
            f"vae: expected {'positive' if name == 'latents_std' else 'finite'} numbers as {name} of its "
            f"configuration, got {values!r}"
        )
    return tuple(found)


def _column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """[C, 1, 1] on the device of `like`, filled there: a tensor made from a list would be copied, and waited for."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.stack([torch.full((1, 1), x, dtype=dtype, device=like.device) for x in values])
