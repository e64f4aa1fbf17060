"""Small pipelines of diffusers, with their own `encode_prompt`."""

from __future__ import annotations

import pathlib
from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from ..support.models import scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae


def stable_diffusion(folder: pathlib.Path, *, prediction: str = "epsilon", **parts: Any) -> StableDiffusionPipeline:
    """Stable Diffusion 1.x; 2.x with `prediction="v_prediction"`."""
    made = {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(folder),
        "unet": tiny_unet(),
        "scheduler": scheduler(prediction),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return StableDiffusionPipeline(**{**made, **parts}, requires_safety_checker=False)


def stable_diffusion_xl(folder: pathlib.Path, *, zeros: bool = True, **parts: Any) -> StableDiffusionXLPipeline:
    """SDXL, with the configuration of its default negative prompt."""
    made = {
        "vae": tiny_vae(),
        "text_encoder": tiny_text_encoder(),
        "text_encoder_2": tiny_text_encoder(projection=True),
        "tokenizer": tiny_tokenizer(folder / "1"),
        "tokenizer_2": tiny_tokenizer(folder / "2"),
        "unet": tiny_unet(sdxl=True),
        "scheduler": scheduler(),
    }
    return StableDiffusionXLPipeline(**{**made, **parts}, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def encoded(pipe: Any, prompt: Any, negative: Any = None) -> list[Any]:
    """What the pipeline's own method gives: text, uncond, and pooled ones where it has them."""
    return list(
        pipe.encode_prompt(
            prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True, negative_prompt=negative
        )
    )
