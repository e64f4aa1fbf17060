"""Rows of pipelines, and of UNets without one."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import diffusers
import torch
from torch import nn

from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings
from tests.support import models as small

from .common import WIDTH, cast, on, take_step, unet


def _piped(kind: str, **parts: Any) -> Callable[[], str]:
    """A pipeline by the name of its class, its prompt encoded by the prior."""

    def run() -> str:
        with tempfile.TemporaryDirectory() as folder:
            made = {
                name: part(pathlib.Path(folder)) if callable(part) and not isinstance(part, nn.Module) else part
                for name, part in {**_parts(kind), **parts}.items()
            }
        pipe = getattr(diffusers, kind)(**made)
        prior = LatentDiffusionPrior.from_pipe(pipe, lambda_fm=0.1)
        text = prior.encode_prompt("abc")
        ours = [x for x in (text.text, text.uncond, text.pooled, text.pooled_uncond) if x is not None]
        theirs = pipe.encode_prompt("abc", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
        if not all(map(torch.equal, ours, theirs)):
            raise ArithmeticError("the embeddings are not the pipeline's own")
        take_step(prior, text)
        return "the embeddings are the pipeline's own"

    return run


def _parts(kind: str) -> dict[str, Any]:
    xl = "XL" in kind
    parts: dict[str, Any] = {
        "vae": small.tiny_vae(),
        "unet": small.tiny_unet(sdxl=xl),
        "scheduler": small.scheduler(),
        "text_encoder": small.tiny_text_encoder(),
        "tokenizer": small.tiny_tokenizer,
    }
    if xl:
        return parts | {"text_encoder_2": small.tiny_text_encoder(projection=True), "tokenizer_2": small.tiny_tokenizer}
    if kind in ("StableDiffusionUpscalePipeline", "StableDiffusionDepth2ImgPipeline"):
        return parts
    return parts | {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def _ip_adapter() -> str:
    network = unet()
    network.config.encoder_hid_dim_type = "ip_image_proj"  # what load_ip_adapter writes
    return on(network)


def _transformer(kind: str, **parts: Any) -> Callable[[], str]:
    """A pipeline without a UNet; what it has beside the VAE is not looked at."""

    def run() -> str:
        # Earlier versions of diffusers count `self` in.
        names = getattr(diffusers, kind)._get_signature_types().keys() - {"self"}
        made = {**dict.fromkeys(names), "vae": small.tiny_vae(), "scheduler": small.scheduler(), **parts}
        return take_step(LatentDiffusionPrior.from_pipe(getattr(diffusers, kind)(**made)))

    return run


def pipelines() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "Stable Diffusion 1.x", _piped("StableDiffusionPipeline")
    yield (
        "Stable Diffusion 2.x (v-prediction)",
        _piped("StableDiffusionPipeline", scheduler=small.scheduler("v_prediction")),
    )
    yield "Stable Diffusion, image to image", _piped("StableDiffusionImg2ImgPipeline")
    yield "SDXL", _piped("StableDiffusionXLPipeline")
    refiner = unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=40 + WIDTH
    )
    alone = {"text_encoder": None, "tokenizer": None, "requires_aesthetics_score": True}
    yield "SDXL's refiner", _piped("StableDiffusionXLImg2ImgPipeline", unet=refiner, **alone)
    yield (
        "SDXL without its second text encoder",
        lambda: on(small.tiny_unet(sdxl=True), text_encoder=small.tiny_text_encoder()),
    )
    yield (
        "SDXL, embeddings as a tensor",
        lambda: take_step(
            LatentDiffusionPrior(small.tiny_unet(sdxl=True), None, small.scheduler(), settings=PriorSettings(0.0)),
            torch.zeros(2, 5, 2 * WIDTH),
        ),
    )
    yield (
        "Stable Diffusion, 16 latent channels, a flow-matching scheduler",
        lambda: on(small.tiny_unet(channels=16), scheduler=diffusers.FlowMatchEulerDiscreteScheduler()),
    )
    yield (
        "Stable Diffusion with a ControlNet",
        _piped("StableDiffusionControlNetPipeline", controlnet=diffusers.ControlNetModel.from_unet(unet())),
    )
    yield "Stable Diffusion with an IP-Adapter", _ip_adapter
    yield (
        "Stable Diffusion for inpainting (9 channels)",
        _piped("StableDiffusionInpaintPipeline", unet=unet(in_channels=9)),
    )
    yield "InstructPix2Pix (8 channels)", _piped("StableDiffusionInstructPix2PixPipeline", unet=unet(in_channels=8))
    yield (
        "Stable Diffusion's upscaler (7 channels)",
        _piped(
            "StableDiffusionUpscalePipeline",
            unet=unet(in_channels=7, num_class_embeds=10),
            low_res_scheduler=small.scheduler(),
        ),
    )
    yield "Class labels (Stable unCLIP, AudioLDM)", lambda: on(unet(num_class_embeds=10))
    yield (
        "A latent consistency model",
        _piped("LatentConsistencyModelPipeline", unet=unet(time_cond_proj_dim=32), scheduler=diffusers.LCMScheduler()),
    )
    yield "A learned variance (8 channels out)", lambda: on(unet(out_channels=8))
    yield "Kandinsky 2.2's image embeddings", lambda: on(unet(encoder_hid_dim_type="image_proj", encoder_hid_dim=8))
    yield "Layer by layer in float8 (enable_layerwise_casting)", lambda: on(cast(unet()))
    yield (
        "UNet2DModel (without text)",
        lambda: on(
            diffusers.UNet2DModel(
                sample_size=8,
                in_channels=4,
                out_channels=4,
                block_out_channels=(8, 8),
                norm_num_groups=4,
                down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2,
                layers_per_block=1,
            )
        ),
    )
    motion = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "cross_attention_dim": WIDTH}
    yield (
        "UNet3DConditionModel (text to video)",
        lambda: on(
            diffusers.UNet3DConditionModel(
                down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
                up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
                attention_head_dim=2,
                **motion,
            )
        ),
    )
    yield (
        "A transformer in the UNet's place (PixArt's)",
        lambda: on(
            diffusers.PixArtTransformer2DModel(
                num_attention_heads=2,
                attention_head_dim=4,
                in_channels=4,
                out_channels=4,
                num_layers=1,
                sample_size=8,
                cross_attention_dim=8,
                caption_channels=8,
            )
        ),
    )
    for kind in ("StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline"):
        yield kind, _transformer(kind)
