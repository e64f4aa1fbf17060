"""What the decoder's tests share: VAEs of every architecture, and their features as their own code makes them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from ldp_fast.decoder import FrozenDecoder

from ..ops.common import weights_like
from ..support.models import tiny_autoencoder
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from . import compvis

LEVELS = ("mid", "up0", "up1", "up2", "up3")
COMPVIS_SCALING = 0.18215


def kl(channels: tuple[int, ...] = (16, 16, 32, 32), *, layers: int = 2, groups: int = 4, **options: Any) -> Any:
    """diffusers' AutoencoderKL with `layers` + 1 resnets a level, and norms that are not the identity."""
    torch.manual_seed(0)
    count = len(channels)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        block_out_channels=channels,
        layers_per_block=layers,
        norm_num_groups=groups,
        **options,
    )
    for module in vae.decoder.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return vae.eval().requires_grad_(False)


NO_QUANT: dict[str, Any] = {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "sd1": lambda: kl(latent_channels=4, scaling_factor=0.18215),
    "sdxl": lambda: kl((16, 32, 32, 32), latent_channels=4, scaling_factor=0.13025, force_upcast=True),
    "sd3": lambda: kl(**NO_QUANT, scaling_factor=1.5305, shift_factor=0.0609),
    "flux": lambda: kl((16, 32, 32, 32), **NO_QUANT, scaling_factor=0.3611, shift_factor=0.1159),
    "no multiple of 16": lambda: kl((8, 8, 24, 24), layers=1, latent_channels=4, shift_factor=0.1),
    "mixed": lambda: kl((8, 16, 24, 32), layers=1, latent_channels=3),
    "no attention": lambda: kl((16, 32), layers=1, latent_channels=4, mid_block_add_attention=False),
    "compvis": compvis.AutoencoderKL,
    "compvis 2": lambda: compvis.AutoencoderKL(attention=compvis.MemoryEfficientAttnBlock, in_up=True),
    "compvis, 24": lambda: compvis.AutoencoderKL((8, 24), 3),
    "tiny": tiny_autoencoder,
}
BY_HAND = tuple(name for name in ARCHITECTURES if name != "tiny")


@functools.cache
def _kept(name: str) -> Any:
    with torch.random.fork_rng():  # the test's own numbers are the same whoever comes first
        return ARCHITECTURES[name]()


def architecture(name: str) -> Any:
    """A VAE of its own for each test."""
    return copy.deepcopy(_kept(name))


def latent_channels(vae: Any) -> int:
    if isinstance(vae, compvis.AutoencoderKL):
        return vae.post_quant_conv.in_channels
    return vae.config.latent_channels


def scaling(vae: Any) -> dict[str, float]:
    """What FrozenDecoder has to be told."""
    return {"scaling_factor": COMPVIS_SCALING} if isinstance(vae, compvis.AutoencoderKL) else {}


def all_levels(vae: Any) -> tuple[str, ...]:
    if isinstance(vae, AutoencoderTiny):
        return LEVELS[1:-1]
    return LEVELS[: 1 + len(vae.decoder.up if isinstance(vae, compvis.AutoencoderKL) else vae.decoder.up_blocks)]


def own_features(vae: Any, latents: Tensor, levels: tuple[str, ...]) -> list[Tensor]:
    """The levels as the VAE's own code makes them: the whole decoder, its blocks' outputs caught on the way."""
    if isinstance(vae, compvis.AutoencoderKL):
        found = vae.levels(latents / COMPVIS_SCALING)
    elif isinstance(vae, AutoencoderTiny):
        found, x = {}, torch.tanh(latents / vae.config.scaling_factor / 3) * 3
        enlarged = False
        for layer in vae.decoder.layers:
            x = layer(x)
            if enlarged:
                found[f"up{len(found)}"] = x
            enlarged = isinstance(layer, nn.Upsample)
    else:
        found = {}
        blocks = {"mid": vae.decoder.mid_block} | {f"up{i}": block for i, block in enumerate(vae.decoder.up_blocks)}
        hooks = [
            block.register_forward_hook(lambda _m, _i, out, level=level: found.__setitem__(level, out))
            for level, block in blocks.items()
        ]
        try:
            vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0))
        finally:
            for hook in hooks:
                hook.remove()
    return [found[level] for level in levels]


def with_gradient(features: Callable[[Tensor], list[Tensor]], latents: Tensor) -> tuple[list[Tensor], Tensor]:
    """Features, and the gradient of an uneven sum of them, every level of about the same weight."""
    leaf = latents.detach().clone().requires_grad_()
    found = features(leaf)
    loss = sum((x * weights_like(x)).sum() / x.numel() ** 0.5 for x in found)
    return [x.detach() for x in found], torch.autograd.grad(loss, leaf)[0]


def check_features(vae: Any, decoder: FrozenDecoder, latents: Tensor) -> None:
    """Features and gradient against the VAE's own code in float64, by the rule of tests/support/tolerances.py.

    Args:
        vae: in the decoder's dtype.
        decoder: of it.
        latents: in any dtype.
    """
    levels = decoder.levels
    exact = copy.deepcopy(vae).double()
    ours, grad = with_gradient(decoder.features, latents)
    theirs, eager = with_gradient(lambda x: own_features(vae, x.to(decoder.dtype), levels), latents)
    truths, truth = with_gradient(lambda x: own_features(exact, x.double(), levels), latents)
    for level, x, y, z in zip(levels, ours, theirs, truths, strict=True):
        assert x.dtype == decoder.dtype and x.is_contiguous(memory_format=torch.channels_last)
        if decoder.dtype == torch.float64:  # no truth is wider
            torch.testing.assert_close(x, z, rtol=1e-10, atol=1e-10)
        else:
            assert_close(x, y, z, factor=OUTPUT, what=level)
    if decoder.dtype == torch.float64:
        torch.testing.assert_close(grad, truth.to(grad), rtol=1e-9, atol=1e-9 * float(truth.abs().max()))
    else:
        assert_close(grad, eager, truth, factor=GRADIENT, what="gradient")
