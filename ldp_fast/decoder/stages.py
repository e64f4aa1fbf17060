"""Cuts a VAE's decoder into stages, whatever code base it comes from.

A stage is a module of one tensor argument. The first stage takes the *unscaled* latents `[B, C, h, w]`; each later one
takes its predecessor's output. Names: `mid` is the mid-block's output, `up0`, `up1`, … the up-blocks' outputs from the
smallest resolution to the largest. CompVis' `decoder.up[3]` is `up0`, as diffusers' `up_blocks[0]` is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class _Entry(nn.Module):
    """post_quant_conv (where there is one), then the decoder's first convolution."""

    def __init__(self, post_quant_conv: Any, conv_in: Any):
        super().__init__()
        self.post_quant_conv: Any = post_quant_conv
        self.conv_in: Any = conv_in

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.conv_in(latents)


class _TinyEntry(nn.Module):
    """AutoencoderTiny's soft clamp, then its first convolution and activation."""

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        self.layers = layers

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.tanh(latents / 3) * 3)


class _CompVisMid(nn.Module):
    def __init__(self, mid: Any):
        super().__init__()
        self.mid: Any = mid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mid.block_2(self.mid.attn_1(self.mid.block_1(x, None)), None)


class _CompVisUp(nn.Module):
    def __init__(self, level: Any):
        super().__init__()
        self.level: Any = level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, block in enumerate(self.level.block):
            x = block(x, None)
            if len(self.level.attn) > 0:
                x = self.level.attn[index](x)
        return self.level.upsample(x) if hasattr(self.level, "upsample") else x


def _tiny_stages(layers: nn.Sequential) -> list[tuple[str, nn.Module]]:
    # conv, activation | blocks, upsample, conv | … | blocks, conv to RGB: a stage ends with the conv after an upsample.
    stages: list[tuple[str, nn.Module]] = [("in", _TinyEntry(nn.Sequential(*list(layers)[:2])))]
    current: list[nn.Module] = []
    for layer in list(layers)[2:]:
        current.append(layer)
        if isinstance(layer, nn.Conv2d) and any(isinstance(m, nn.Upsample) for m in current):
            stages.append((f"up{len(stages) - 1}", nn.Sequential(*current)))
            current = []
    return stages


def last_module(stage: nn.Module) -> nn.Module:
    """The module of the VAE whose output is a stage's: where a hook finds what the VAE's own decoder makes there."""
    if isinstance(stage, _Entry):
        return stage.conv_in
    if isinstance(stage, _CompVisMid):
        return stage.mid.block_2
    if isinstance(stage, _CompVisUp):
        level = stage.level
        if hasattr(level, "upsample"):
            return level.upsample
        return (level.attn if len(level.attn) > 0 else level.block)[-1]
    if isinstance(stage, _TinyEntry):
        return stage.layers[-1]
    return stage[-1] if isinstance(stage, nn.Sequential) else stage


def containers(vae: Any) -> list[nn.Module]:
    """What holds the stages: modules whose own code decides how the stages are called."""
    decoder = vae.decoder
    return [
        vae,
        decoder,
        *(
            m
            for name in ("mid", "up", "up_blocks", "layers")
            if isinstance(m := getattr(decoder, name, None), nn.Module)
        ),
    ]


def split(vae: nn.Module) -> list[tuple[str, nn.Module]]:
    """The stages of a VAE's decoder, in order, with their names; the layers past the last level are left out.

    Args:
        vae: diffusers' AutoencoderKL (any number of blocks, with or without post_quant_conv) or AutoencoderTiny, or a
            CompVis first-stage model; anything with the same attributes will do.

    Raises:
        TypeError: the decoder is of another kind.
    """
    try:
        return _split(vae)
    except (AttributeError, IndexError) as error:
        raise TypeError(
            f"FrozenDecoder: vae: {type(vae).__name__} is not served: its decoder is neither diffusers' nor CompVis' "
            f"decoder of images ({error})"
        ) from error


def _split(vae: nn.Module) -> list[tuple[str, nn.Module]]:
    decoder: Any = getattr(vae, "decoder", None)
    if isinstance(getattr(decoder, "layers", None), nn.Sequential):
        return _tiny_stages(decoder.layers)
    if not hasattr(decoder, "conv_in"):
        raise TypeError(
            f"FrozenDecoder: vae: expected a diffusers AutoencoderKL or AutoencoderTiny or a CompVis autoencoder "
            f"(with decoder.conv_in), got {type(vae).__name__}"
        )
    stages: list[tuple[str, nn.Module]] = [("in", _Entry(getattr(vae, "post_quant_conv", None), decoder.conv_in))]
    if hasattr(decoder, "up_blocks"):
        stages.append(("mid", decoder.mid_block))
        stages += [(f"up{i}", block) for i, block in enumerate(decoder.up_blocks)]
    elif hasattr(decoder, "up") and hasattr(decoder, "mid"):
        stages.append(("mid", _CompVisMid(decoder.mid)))
        stages += [(f"up{i}", _CompVisUp(level)) for i, level in enumerate(reversed(list(decoder.up)))]
    else:
        raise TypeError(
            f"FrozenDecoder: vae.decoder: expected up_blocks (diffusers) or up (CompVis), got {type(decoder).__name__}"
        )
    return stages
