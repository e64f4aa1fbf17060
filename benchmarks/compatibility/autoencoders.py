"""Rows of autoencoders: the frozen decoder's features against those of the VAE's own decoder, under hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch

from ldp_fast.decoder import FrozenDecoder
from tests.support import models as small

from .common import cast, on, unet

LEVELS = ("up0", "up1", "up2")


def _decoded(vae: Any, *, dtype: torch.dtype = torch.float32, scaling_factor: float | None = None) -> str:
    """Features of the decoder against those of the VAE's own, under hooks, where its blocks have diffusers' names."""
    torch.manual_seed(0)
    for parameter in vae.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    vae = vae.eval().requires_grad_(False)
    decoder = FrozenDecoder(vae.to(dtype), LEVELS, scaling_factor=scaling_factor)
    config = getattr(vae, "config", None)
    channels = getattr(config, "latent_channels", None) or getattr(config, "z_dim", 4)
    latents = torch.randn(1, channels, 4, 4, generator=torch.Generator().manual_seed(5))
    found = decoder.features(latents)
    blocks = getattr(getattr(vae, "decoder", None), "up_blocks", None)
    if config is None or blocks is None:
        return f"{len(found)} levels, not compared with another implementation"
    vae, expected = vae.float(), []
    hooks = [block.register_forward_hook(lambda _m, _i, out: expected.append(out)) for block in list(blocks)[:3]]
    vae.decode(_unscaled(latents, config))
    for hook in hooks:
        hook.remove()
    worst = max(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))
    if worst > (1e-4 if dtype == torch.float32 else 3e-2):
        raise ArithmeticError(f"the features deviate from the VAE's own by {worst:.0%}")
    by_hand = "" if not decoder.fallbacks else f"; {len(decoder.fallbacks)} blocks by autograd"
    return f"the features are the VAE's own{by_hand}"


def _unscaled(latents: torch.Tensor, config: Any) -> torch.Tensor:
    """v in the decoder's units, as the pipelines bring it there."""
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    scale, shift = getattr(config, "scaling_factor", 1.0), getattr(config, "shift_factor", None) or 0.0
    if mean is None or std is None:
        return latents / scale + shift
    column = (1, -1, 1, 1)
    return latents * torch.tensor(std).view(column) / scale + torch.tensor(mean).view(column)


def autoencoders() -> Iterator[tuple[str, Callable[[], str]]]:
    four: dict[str, Any] = {"block_out_channels": (8, 8, 16, 16), "norm_num_groups": 4, "layers_per_block": 1}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}

    def kl(**options: Any) -> Any:
        return diffusers.AutoencoderKL(**four, **kinds, **options)

    yield "AutoencoderKL", lambda: _decoded(kl())
    yield "AutoencoderKL in float16, force_upcast (SDXL's)", lambda: _decoded(kl(), dtype=torch.float16)
    yield (
        "AutoencoderKL with latents_mean and latents_std (Playground 2.5's)",
        lambda: _decoded(kl(latents_mean=[-1.6, 0.2, 0.9, 1.1], latents_std=[8.4, 5.9, 5.4, 5.2], scaling_factor=0.5)),
    )
    yield (
        "AutoencoderKL of 16 channels, shift_factor (Stable Diffusion 3's)",
        lambda: _decoded(kl(latent_channels=16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False)),
    )
    yield "AutoencoderKL without attention in the middle", lambda: _decoded(kl(mid_block_add_attention=False))
    yield "AutoencoderKL, layer by layer in float8", lambda: on(unet(), vae=cast(kl()))
    yield "AutoencoderTiny (TAESD)", lambda: _decoded(small.tiny_autoencoder())
    yield "CompVis' first stage", lambda: _decoded(small.CompVisAutoencoder(small.tiny_vae()), scaling_factor=0.18215)
    named: dict[str, dict[str, Any]] = {
        "AsymmetricAutoencoderKL": {
            **kinds,
            "norm_num_groups": 4,
            "down_block_out_channels": (8,) * 4,
            "up_block_out_channels": (8,) * 4,
        },
        "VQModel": {**four, **kinds, "num_vq_embeddings": 8},
        "ConsistencyDecoderVAE": {
            "encoder_block_out_channels": (8,) * 4,
            "encoder_norm_num_groups": 4,
            "encoder_layers_per_block": 1,
            "decoder_block_out_channels": (8,) * 4,
            "decoder_norm_num_groups": 4,
            "decoder_layers_per_block": 1,
        },
        "AutoencoderDC": {
            "latent_channels": 4,
            "attention_head_dim": 2,
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "encoder_qkv_multiscales": ((), ()),
            "decoder_qkv_multiscales": ((), ()),
        },
        "AutoencoderKLTemporalDecoder": {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "block_out_channels": (32,) * 4,
        },
        "AutoencoderKLHunyuanImage": {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 8,
            "block_out_channels": (32, 32, 32, 32),
            "layers_per_block": 1,
            "spatial_compression_ratio": 8,
            "sample_size": 64,
            "scaling_factor": 0.75,
        },
        "AutoencoderKLHunyuanVideo": {**four, "latent_channels": 4},
        "AutoencoderKLFlux2": {**four, **kinds, "latent_channels": 4},
        "AutoencoderKLCogVideoX": {**four, "latent_channels": 4},
        "AutoencoderKLMochi": {
            "encoder_block_out_channels": (32,) * 4,
            "decoder_block_out_channels": (32,) * 4,
            "layers_per_block": (1, 1, 1, 1, 1),
        },
        "AutoencoderKLLTXVideo": {
            "latent_channels": 4,
            "block_out_channels": (8,) * 4,
            "decoder_block_out_channels": (8,) * 4,
            "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
        },
        "AutoencoderKLWan": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
        "AutoencoderKLQwenImage": {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
    }
    for kind, options in named.items():
        if hasattr(diffusers, kind):
            yield kind, lambda kind=kind, options=options: _decoded(getattr(diffusers, kind)(**options))
    yield (
        'VQModel with norm_type="spatial" (movq)',
        lambda: _decoded(
            diffusers.VQModel(**kinds, block_out_channels=(32,) * 4, num_vq_embeddings=8, norm_type="spatial")
        ),
    )
