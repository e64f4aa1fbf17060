"""StyleGAN2's generator, with skip connections (Karras et al. 2020), as checkpoints of it are."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import UsageError, shortened
from .layers import EqualLinear, Resample, StyledConv, ToRGB, activated, normalised

SMALLEST, LARGEST = 8, 4096
DEEPEST = 64  # layers of a mapping: a file may claim any number
Noise = Sequence[torch.Generator] | Sequence[Tensor] | None


def usual_channels(resolution: int, base: int = 32768, largest: int = 512) -> tuple[int, ...]:
    """Channels at 4, 8, …, resolution: `base` over the resolution, and no more than `largest`.

    Raises:
        UsageError: a resolution that generators do not have, or a base below it, which leaves no channel.
    """
    _check_side(resolution)
    if not _whole(base) or base < resolution:
        raise UsageError(f"base: expected a whole number of at least {resolution}, the resolution, got {base!r}")
    if not _whole(largest) or largest < 1:
        raise UsageError(f"largest: expected a whole number of at least 1, got {largest!r}")
    return tuple(min(base // 2**power, largest) for power in range(2, resolution.bit_length()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The sizes of a generator.

    Attributes:
        resolution: pixels per side, a power of two.
        z_dim: numbers of a z.
        w_dim: numbers of a w.
        mapping_layers: of the mapping network: 8, or 2 in most networks trained with ADA.
        mapping_multiplier: of their learning rate.
        channels: at 4, 8, …, resolution, see `usual_channels`.
        clamp: largest absolute value of a layer (NVIDIA's conv_clamp, which is for half precision); None: any.
    """

    resolution: int
    channels: tuple[int, ...]
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    mapping_multiplier: float = 0.01
    clamp: float | None = None

    def __post_init__(self) -> None:
        side = self.resolution
        _check_side(side)
        try:
            object.__setattr__(self, "channels", tuple(self.channels))
        except TypeError:
            raise UsageError(f"channels: expected whole numbers, got {shortened(repr(self.channels))}") from None
        for name in ("z_dim", "w_dim", "mapping_layers"):
            value = getattr(self, name)
            if not _whole(value) or value < 1:
                raise UsageError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.mapping_layers > DEEPEST:
            raise UsageError(f"mapping_layers: expected at most {DEEPEST}, got {self.mapping_layers}")
        stages = side.bit_length() - 2
        if len(self.channels) != stages or not all(_whole(count) and count >= 1 for count in self.channels):
            raise UsageError(
                f"channels: expected {stages} whole numbers of at least 1, for 4 to {side} pixels, got "
                f"{list(self.channels)}"
            )
        for name in ("mapping_multiplier", "clamp"):
            value = getattr(self, name)
            if value is None and name == "clamp":
                continue
            # A whole number may be larger than any that tensors have.
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
                raise UsageError(f"{name}: expected a number above 0, got {shortened(repr(value))}")

    @property
    def layers(self) -> int:
        """How many w a picture is made from (w⁺): one a convolution, and one for the last ToRGB."""
        return 2 * (self.resolution.bit_length() - 1) - 2


def _check_side(side: object) -> None:
    if not isinstance(side, int) or not _whole(side) or not SMALLEST <= side <= LARGEST or side & (side - 1):
        raise UsageError(
            f"resolution: expected a power of two from {SMALLEST} to {LARGEST}, got {shortened(repr(side))}"
        )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Mapping(nn.Module):
    """z → w: normalised, and then fully connected layers, in float32 at least, under autocast as well."""

    def __init__(self, settings: Settings):
        super().__init__()
        s = settings
        sizes = [s.z_dim, *[s.w_dim] * s.mapping_layers]
        self.fc = nn.ModuleList(
            EqualLinear(a, b, multiplier=s.mapping_multiplier) for a, b in itertools.pairwise(sizes)
        )

    def forward(self, z: Tensor) -> Tensor:
        """z [B, Z] → w [B, W], of the weights' dtype."""
        dtype: torch.dtype = self.fc[0].weight.dtype  # type: ignore[assignment, union-attr]
        with torch.autocast(z.device.type, enabled=False):
            x = normalised(z.to(torch.promote_types(dtype, torch.float32)))
            for layer in self.fc:
                x = activated(layer(x))
        return x.to(dtype)


class StyleGAN2(nn.Module):
    """A generator of pictures: z → w → [B, 3, R, R], about [−1, 1].

    Without code that is compiled when it is first used; on a CPU, a GPU, under autocast (the mapping, styles and
    their norms stay in float32) and in channels-last. Convolutions are shared by the samples of a batch, whose styles
    scale what goes in and comes out; `grouped = True` makes a weight for each sample and one grouped convolution of a
    batch in its place.

    Args:
        settings: its sizes.

    Attributes:
        settings: the same.
        grouped: see above.
        w_mean: w̄ [W], the centre of truncation: a buffer; `average` computes it.
        name: what it is called in messages.
        about: what is known of it, such as how it was made.

    Examples:
        >>> import torch
        >>> from ldp_fast.generators import Settings, StyleGAN2, usual_channels
        >>> generator = StyleGAN2(Settings(resolution=32, z_dim=8, w_dim=16, channels=usual_channels(32, 512, 32)))
        >>> w = generator.mapping(torch.randn(4, 8), truncation=0.7)
        >>> list(w.shape), list(generator.synthesis(w).shape)
        ([4, 8, 16], [4, 3, 32, 32])
    """

    w_mean: Tensor

    def __init__(self, settings: Settings):
        super().__init__()
        s = self.settings = settings
        self.grouped = False
        self.name, self.about = "", dict[str, object]()
        self.style = Mapping(s)
        self.register_buffer("w_mean", torch.zeros(s.w_dim))
        self.constant = nn.Parameter(torch.randn(s.channels[0], 4, 4))
        self.conv1 = StyledConv(s.channels[0], s.channels[0], 4, s.w_dim, up=False, clamp=s.clamp)
        self.to_rgb1 = ToRGB(s.channels[0], s.w_dim, s.clamp)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for stage, (a, b) in enumerate(zip(s.channels[:-1], s.channels[1:], strict=True)):
            side = 8 << stage
            self.convs.append(StyledConv(a, b, side, s.w_dim, up=True, clamp=s.clamp))
            self.convs.append(StyledConv(b, b, side, s.w_dim, up=False, clamp=s.clamp))
            self.to_rgbs.append(ToRGB(b, s.w_dim, s.clamp))
        self.resample = Resample()

    @property
    def z_dim(self) -> int:
        """Numbers of a z."""
        return self.settings.z_dim

    @property
    def resolution(self) -> int:
        """Pixels per side."""
        return self.settings.resolution

    @property
    def layers(self) -> int:
        """How many w a picture is made from."""
        return self.settings.layers

    def styled(self) -> dict[str, StyledConv | ToRGB]:
        """The layers that a w steers, by name, from the coarsest: conv1, to_rgb1, convs.0, convs.1, to_rgbs.0, …"""
        found: dict[str, StyledConv | ToRGB] = {"conv1": self.conv1, "to_rgb1": self.to_rgb1}
        for stage, to_rgb in enumerate(self.to_rgbs):
            for index in (2 * stage, 2 * stage + 1):
                found[f"convs.{index}"] = self.convs[index]  # type: ignore[assignment]
            found[f"to_rgbs.{stage}"] = to_rgb  # type: ignore[assignment]
        return found

    def mapping(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """z [B, Z] → w [B, L, W], the same for every layer.

        Args:
            z: drawn from N(0, 1).
            truncation: ψ of w̄ + ψ (w − w̄): 1 leaves it, 0 is the average.

        Raises:
            UsageError: z of another shape.
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise UsageError(f"z: expected [B, {self.z_dim}], got {list(z.shape)}")
        w: Tensor = self.style(z)
        if truncation != 1:
            w = self.w_mean + truncation * (w - self.w_mean)
        return w[:, None].expand(-1, self.layers, -1)

    def synthesis(self, w: Tensor, noise: Noise = None) -> Tensor:
        """w [B, L, W], or [B, W] for all layers, → pictures [B, 3, R, R], about [−1, 1], not clamped.

        Args:
            w: of `mapping`; with others at some layers styles are mixed.
            noise: None is the generator's own, the same for all samples. Generators, one a sample, draw another.
                Tensors, one a convolution (conv1, convs.0, …), [B or 1, 1, rows, columns], are taken as they are.

        Raises:
            UsageError: w or noise of another shape or number.
        """
        s = self.settings
        if w.ndim == 2:
            w = w[:, None].expand(-1, s.layers, -1)
        if w.ndim != 3 or w.shape[1:] != (s.layers, s.w_dim):
            raise UsageError(f"w: expected [B, {s.layers}, {s.w_dim}] or [B, {s.w_dim}], got {list(w.shape)}")
        noises = self._noises(len(w), noise, w)
        x = self.constant.expand(len(w), -1, -1, -1)
        x = self.conv1(x, w[:, 0], noises[0], self.grouped)
        image: Tensor = self.to_rgb1(x, w[:, 1], self.grouped)
        for stage, to_rgb in enumerate(self.to_rgbs):
            first, second = 2 * stage, 2 * stage + 1
            x = self.convs[first](x, w[:, first + 1], noises[first + 1], self.grouped)
            x = self.convs[second](x, w[:, second + 1], noises[second + 1], self.grouped)
            with torch.autocast(image.device.type, enabled=False):
                image = self.resample.doubled(image)
            image = image + to_rgb(x, w[:, second + 2], self.grouped)
        return image

    def forward(self, z: Tensor, truncation: float = 1.0, noise: Noise = None) -> Tensor:
        """`synthesis` of `mapping`."""
        return self.synthesis(self.mapping(z, truncation), noise)

    def _noises(self, count: int, noise: Noise, like: Tensor) -> list[Tensor]:
        own: list[Tensor] = [self.conv1.noise, *(conv.get_buffer("noise") for conv in self.convs)]
        if noise is None:
            return [x[None, None] for x in own]
        tensors = [x for x in noise if isinstance(x, Tensor)]
        generators = [x for x in noise if isinstance(x, torch.Generator)]
        if tensors:
            shapes = [list(x.shape) for x in tensors]
            allowed = [([count, 1, *x.shape], [1, 1, *x.shape]) for x in own]
            if len(shapes) != len(own) or any(x not in both for x, both in zip(shapes, allowed, strict=True)):
                sides = ", ".join(str(len(x)) for x in own)
                raise UsageError(
                    f"noise: expected {len(own)} tensors [{count} or 1, 1, side, side], of sides {sides}; got "
                    f"{', '.join(map(str, shapes))}"
                )
            return tensors
        if len(generators) != count:
            raise UsageError(f"noise: expected {count} generators, one a sample, got {len(generators)}")
        return [
            torch.stack([torch.randn((1, *x.shape), generator=g, device=g.device) for g in generators]).to(
                like, non_blocking=True
            )
            for x in own
        ]

    @torch.no_grad()
    def average(self, count: int = 4096, seed: int = 0) -> Tensor:
        """Sets w̄ to the mean of `count` w, and returns it."""
        z = torch.randn(count, self.z_dim, generator=torch.Generator().manual_seed(seed))
        total = torch.zeros_like(self.w_mean, dtype=torch.float64)
        for part in z.to(self.w_mean).split(1024):
            total += self.style(part).double().sum(0)
        self.w_mean.copy_(total / count)
        return self.w_mean
