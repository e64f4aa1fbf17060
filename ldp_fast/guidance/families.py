"""What the models are made of that people have as one file: the configurations that such a file does not carry.

The numbers are those of the models as they were published; everything left out is the default of its class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
# Stable Diffusion 2 conditions on the layer before the last; its text encoder ends there.
_OPEN_CLIP_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_OPEN_CLIP_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_WORDS = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
    "layer_norm_eps": 1e-05,
}
_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_UNET_2 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
_UNET_XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """The parts of a model: classes and configurations by their names in `model_index.json`.

    Attributes:
        title: what people call it.
        classes: library and class of each part.
        configs: what each class is made with; a tokenizer's holds its padding.
    """

    title: str
    classes: dict[str, tuple[str, str]]
    configs: dict[str, dict[str, Any]]

    def with_schedule(self, **changes: Any) -> Family:
        """Another family whose scheduler differs."""
        scheduler = {**self.configs["scheduler"], **changes}
        return dataclasses.replace(self, configs={**self.configs, "scheduler": scheduler})


def _family(
    title: str, prediction: str, unet: dict[str, Any], vae: dict[str, Any], *encoders: tuple[str, dict[str, Any], str]
) -> Family:
    classes = {
        "scheduler": ("diffusers", "DDIMScheduler"),
        "vae": ("diffusers", "AutoencoderKL"),
        "unet": ("diffusers", "UNet2DConditionModel"),
    }
    configs = {"scheduler": {**_SCHEDULE, "prediction_type": prediction}, "vae": {**_VAE, **vae}, "unet": unet}
    for number, (cls, config, padding) in zip(("", "_2"), encoders, strict=False):
        classes |= {
            f"tokenizer{number}": ("transformers", "CLIPTokenizer"),
            f"text_encoder{number}": ("transformers", cls),
        }
        configs |= {f"tokenizer{number}": {"pad_token": padding}, f"text_encoder{number}": {**_WORDS, **config}}
    return Family(title, classes, configs)


_END, _ZERO = "<|endoftext|>", "!"
_L = ("CLIPTextModel", _CLIP_L, _END)
_H = ("CLIPTextModel", _OPEN_CLIP_H, _ZERO)
_G = ("CLIPTextModelWithProjection", _OPEN_CLIP_BIG_G, _ZERO)
_UNET_1 = {"sample_size": 64, "cross_attention_dim": 768}
_VAE_XL = {"sample_size": 1024, "scaling_factor": 0.13025}
FAMILIES = {
    "sd1": _family("Stable Diffusion 1.x", "epsilon", _UNET_1, {"sample_size": 512}, _L),
    "sd1-v": _family("Stable Diffusion 1.x", "v_prediction", _UNET_1, {"sample_size": 512}, _L),
    "sd2-base": _family("Stable Diffusion 2.x", "epsilon", {"sample_size": 64, **_UNET_2}, {"sample_size": 512}, _H),
    "sd2-v": _family("Stable Diffusion 2.x", "v_prediction", {"sample_size": 96, **_UNET_2}, {"sample_size": 768}, _H),
    "sdxl": _family("SDXL", "epsilon", _UNET_XL, _VAE_XL, _L, _G),
    "sdxl-v": _family("SDXL", "v_prediction", _UNET_XL, _VAE_XL, _L, _G),
}
