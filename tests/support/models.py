"""Small models of the classes that real checkpoints have, with random weights: what the tests run in their place."""

from __future__ import annotations

import json
import pathlib

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TEXT_WIDTH = 16


def tiny_vae(*, latent_channels: int = 4, post_quant: bool = True, shift_factor: float | None = None) -> AutoencoderKL:
    """Four levels (×8), as Stable Diffusion's."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        shift_factor=shift_factor,
        use_quant_conv=post_quant,
        use_post_quant_conv=post_quant,
    )
    return vae.eval().requires_grad_(False)


def tiny_autoencoder() -> AutoencoderTiny:
    """TAESD's class."""
    torch.manual_seed(0)
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )
    return tiny.eval().requires_grad_(False)


def tiny_unet(*, channels: int = 4, sdxl: bool = False) -> UNet2DConditionModel:
    """Two levels, the first with cross-attention; `sdxl` adds SDXL's text_time."""
    torch.manual_seed(1)
    extra = {}
    if sdxl:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=2 * TEXT_WIDTH if sdxl else TEXT_WIDTH,
        attention_head_dim=2,
        **extra,
    )
    return unet.eval().requires_grad_(False)


def scheduler(prediction: str = "epsilon") -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction)


def tiny_text_encoder(*, projection: bool = False) -> nn.Module:
    """CLIP's text tower."""
    torch.manual_seed(2)
    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=TEXT_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=TEXT_WIDTH,
        bos_token_id=62,
        eos_token_id=63,
        pad_token_id=63,
    )
    cls = CLIPTextModelWithProjection if projection else CLIPTextModel
    return cls(config).eval().requires_grad_(False)


def tiny_tokenizer(folder: pathlib.Path):
    """CLIP's tokenizer over single letters."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(letter + "</w>" for letter in letters), *"0123456789", "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    end = "<|endoftext|>"
    # By from_pretrained: what the class itself calls the two files differs between transformers 4 and 5.
    tokenizer = CLIPTokenizer.from_pretrained(
        folder,
        unk_token=end,
        bos_token="<|startoftext|>",
        eos_token=end,
        pad_token=end,
        model_max_length=16,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def save_stable_diffusion(folder: pathlib.Path, *, prediction: str = "epsilon") -> pathlib.Path:
    """A whole Stable Diffusion in diffusers' format, as a hub download would lie on disk."""
    tiny_unet().save_pretrained(folder / "unet")
    tiny_vae().save_pretrained(folder / "vae")
    scheduler(prediction).save_pretrained(folder / "scheduler")
    tiny_text_encoder().save_pretrained(folder / "text_encoder")
    tiny_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


class CompVisDecoder(nn.Module):
    """The attributes of CompVis' first-stage decoder, holding the very blocks of a diffusers VAE."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        decoder = vae.decoder
        self.conv_in = decoder.conv_in
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = decoder.mid_block.resnets
        self.mid.attn_1 = decoder.mid_block.attentions[0]
        self.up = nn.ModuleList()
        # CompVis stores the levels from the highest resolution to the lowest.
        for block in reversed(decoder.up_blocks):
            level = nn.Module()
            level.block, level.attn = block.resnets, nn.ModuleList()
            if block.upsamplers is not None:
                level.upsample = block.upsamplers[0]
            self.up.append(level)


class CompVisAutoencoder(nn.Module):
    """CompVis' AutoencoderKL as far as a decoder adapter reads it: no configuration, `post_quant_conv`, `decoder`."""

    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.post_quant_conv, self.decoder = vae.post_quant_conv, CompVisDecoder(vae)
