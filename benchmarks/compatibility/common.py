"""What the rows of the table share: a small UNet, and a step on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import diffusers
import torch

from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings
from tests.support import models as small

WIDTH = small.TEXT_WIDTH


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        section: the table it stands in.
        name: of the class or of the model.
        run: makes it and takes a step; returns what is worth saying of it.
    """

    section: str
    name: str
    run: Callable[[], str]


def unet(**options: Any) -> Any:
    """Stable Diffusion's class with other options."""
    torch.manual_seed(1)
    given: dict[str, Any] = {
        "sample_size": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return diffusers.UNet2DConditionModel(**{**given, **options}).eval().requires_grad_(False)


def take_step(prior: LatentDiffusionPrior, text: Any = None, **changes: Any) -> str:
    """A gradient, which has to be finite."""
    latents = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(3))
    if text is None:
        text = TextEmbeddings(*torch.randn(2, 1, 5, WIDTH, generator=torch.Generator().manual_seed(4)))
    gradient, _ = prior.with_settings(guidance_scale=2.0, **changes).gradient(latents, text, timesteps=300)
    if not torch.isfinite(gradient).all():
        raise ArithmeticError("the gradient is not finite")
    return ""


def on(network: Any, **parts: Any) -> str:
    given: dict[str, Any] = {"vae": None, "scheduler": small.scheduler(), "settings": PriorSettings(0.0)}
    return take_step(LatentDiffusionPrior(network, **{**given, **parts}))


def cast(network: Any) -> Any:
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return network
