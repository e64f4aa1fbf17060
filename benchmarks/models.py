"""The models that decoder and step are timed with: SD 1.5's architecture with random weights, and the embedded one.

Speed does not depend on the weights, so nothing is downloaded: the networks are made from their configurations. Their
default initialisation takes long for 860 million parameters on two cores; here one block of normal numbers is copied
all over them, scaled so that activations neither vanish nor grow.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import REHEARSING

LEVELS = ("up0", "up1", "up2")
_BLOCK = 2**20
_SD15_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_SD15_UNET: dict[str, Any] = {
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
# The same classes and the same number of levels, for tests.
_TINY_VAE = _SD15_VAE | {"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}
_TINY_UNET: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
TOKENS = 77


@dataclass(frozen=True)
class Models:
    """A latent diffusion model and one prompt.

    Attributes:
        unet: noise predictor; None where only the decoder was asked for.
        vae: the autoencoder.
        scheduler: DDIM's, with the model's ᾱ_t.
        text: embeddings [2, L, D], without the prompt and with it.
        notes: a model's own notes, for `LatentDiffusionPrior`.
    """

    unet: Any
    vae: Any
    scheduler: Any
    text: Tensor
    notes: dict[str, Any] = field(default_factory=dict)


def fill(module: nn.Module, device: str, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Gives a module made on the meta device its memory and its weights: gains 1, biases 0, N(0, 1 / inputs) else."""
    module = module.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    block = torch.randn(_BLOCK, generator=torch.Generator().manual_seed(seed)).to(device, dtype)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
                continue
            scale = 1 / math.sqrt(parameter[0].numel())
            for piece in parameter.view(-1).split(_BLOCK):
                torch.mul(block[: len(piece)], scale, out=piece)
    return module


def _scheduler() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def _vae(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    # Nobody encodes here, and the encoder's weights would count as memory.
    del vae.encoder, vae.quant_conv
    return fill(vae, device, dtype)


def _unet(config: dict[str, Any], device: str, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    return fill(unet, device, dtype, seed=1)


def _text(width: int, device: str, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, TOKENS, width, generator=torch.Generator().manual_seed(2)).to(device, dtype)


@functools.lru_cache(maxsize=2)
def load(name: str, device: str, dtype: torch.dtype = torch.float32, unet: bool = True) -> Models:
    """Makes a model; the last two made are kept.

    Args:
        name: `SD 1.5`, `embedded`, or `tiny` (SD's classes with few channels, for tests and rehearsals).
        device: where to.
        dtype: of the weights.
        unet: False leaves the UNet out.

    Raises:
        ValueError: an unknown name.
    """
    if name == "embedded":
        from ldp_fast.guidance import LatentDiffusionPrior

        prior = LatentDiffusionPrior.from_pretrained("primitives", device=device, dtype=dtype)
        prompt = prior.encode_prompt("a red torus")
        text = torch.cat([prompt.uncond, prompt.text]).to(dtype)
        networks = [network.requires_grad_(False) for network in (prior.unet, prior.vae) if network is not None]
        return Models(networks[0] if unet else None, networks[1], prior.scheduler, text, dict(prior.notes))
    if name == "SD 1.5" and REHEARSING:
        name = "tiny"
    if name not in ("SD 1.5", "tiny"):
        raise ValueError(f"models: expected SD 1.5, embedded or tiny, got {name!r}")
    of_vae, of_unet = (_TINY_VAE, _TINY_UNET) if name == "tiny" else (_SD15_VAE, _SD15_UNET)
    network = _unet(of_unet, device, dtype) if unet else None
    text = _text(of_unet["cross_attention_dim"], device, dtype)
    return Models(network, _vae(of_vae, device, dtype), _scheduler(), text)


def sample_latents(side: int, device: str, seed: int = 3) -> Tensor:
    """Latents [1, 4, side, side] as a diffusion model sees them, float32."""
    return torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
