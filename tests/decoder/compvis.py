"""CompVis' first-stage decoder in our own words: its attributes, its calls and its arithmetic, with random weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(channels: int) -> nn.GroupNorm:
    layer = nn.GroupNorm(4, channels, eps=1e-6)
    nn.init.normal_(layer.weight, 1.0, 0.3)
    nn.init.normal_(layer.bias, 0.0, 0.3)
    return layer


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class ResnetBlock(nn.Module):
    """`temb` is there to be None; the skip is called nin_shortcut, or conv_shortcut with three taps."""

    def __init__(self, into: int, out: int, *, conv_shortcut: bool = False, dropout: float = 0.0):
        super().__init__()
        self.in_channels, self.out_channels, self.use_conv_shortcut = into, out, conv_shortcut
        self.norm1, self.conv1 = norm(into), nn.Conv2d(into, out, 3, 1, 1)
        self.norm2, self.dropout, self.conv2 = norm(out), nn.Dropout(dropout), nn.Conv2d(out, out, 3, 1, 1)
        if into != out and conv_shortcut:
            self.conv_shortcut = nn.Conv2d(into, out, 3, 1, 1)
        elif into != out:
            self.nin_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        assert temb is None
        h = self.conv1(swish(self.norm1(x)))
        h = self.conv2(self.dropout(swish(self.norm2(h))))
        if self.in_channels != self.out_channels:
            x = self.conv_shortcut(x) if self.use_conv_shortcut else self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.in_channels, self.norm = channels, norm(channels)
        self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2) for part in (self.q, self.k, self.v))  # [B, C, HW]
        weights = torch.softmax(q.transpose(1, 2) @ k * x.shape[1] ** -0.5, 2)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class MemoryEfficientAttnBlock(AttnBlock):
    """The name that Stable Diffusion 2's code has for it where xformers is installed."""


class Upsample(nn.Module):
    def __init__(self, channels: int, with_conv: bool = True):
        super().__init__()
        self.with_conv = with_conv
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.conv(x) if self.with_conv else x


class Decoder(nn.Module):
    """up[0] is the highest resolution; only the lowest has attention, and only if asked for."""

    def __init__(self, channels: tuple[int, ...], latent: int, attention: type[nn.Module], *, in_up: bool):
        super().__init__()
        width = channels[-1]
        self.conv_in = nn.Conv2d(latent, width, 3, 1, 1)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1 = ResnetBlock(width, width), attention(width)
        self.mid.block_2 = ResnetBlock(width, width)
        levels: list[nn.Module] = []
        for depth in reversed(range(len(channels))):
            level: Any = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(2):
                level.block.append(ResnetBlock(width, channels[depth]))
                width = channels[depth]
                if in_up and depth == len(channels) - 1:
                    level.attn.append(attention(width))
            if depth > 0:
                level.upsample = Upsample(width)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)


class AutoencoderKL(nn.Module):
    """No configuration; `post_quant_conv` and `decoder`."""

    def __init__(
        self,
        channels: tuple[int, ...] = (16, 16, 32, 32),
        latent: int = 4,
        attention: type[nn.Module] = AttnBlock,
        *,
        in_up: bool = False,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        self.decoder = Decoder(channels, latent, attention, in_up=in_up)
        self.eval().requires_grad_(False)

    def levels(self, z: Tensor) -> dict[str, Tensor]:
        """What the decoder's forward pass goes through, by the names of this project."""
        decoder: Any = self.decoder
        h = decoder.conv_in(self.post_quant_conv(z))
        h = decoder.mid.block_2(decoder.mid.attn_1(decoder.mid.block_1(h, None)), None)
        found = {"mid": h}
        for index, level in enumerate(reversed(decoder.up)):
            for number, block in enumerate(level.block):
                h = block(h, None)
                h = level.attn[number](h) if len(level.attn) else h
            h = level.upsample(h) if hasattr(level, "upsample") else h
            found[f"up{index}"] = h
        return found
