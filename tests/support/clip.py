"""Small CLIPs with random weights, saved as transformers saves them."""

from __future__ import annotations

import pathlib
from typing import Any

import torch

from .models import tiny_tokenizer

SIZE, PATCH, CONTEXT = 32, 8, 16


def tiny_clip(*, image_size: int = SIZE, seed: int = 3) -> Any:
    """transformers' CLIPModel with three blocks a tower, for the vocabulary of `tiny_tokenizer`."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    both = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2}
    text = {
        **both,
        "vocab_size": 64,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": 62,
        "eos_token_id": 63,
        "pad_token_id": 63,
    }
    vision = {**both, "image_size": image_size, "patch_size": PATCH}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    with torch.no_grad():  # as they are made, weights are so small that every picture looks alike
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(4 if "embedding" not in name else 20)
    return model


def processor(size: int = SIZE) -> Any:
    """transformers' own image processor of CLIP, on Pillow."""
    try:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as Processor
    except ImportError:  # before transformers 5 it has the name that takes torchvision now
        from transformers import CLIPImageProcessor as Processor
    return Processor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def save_clip(folder: pathlib.Path, **kwargs: Any) -> pathlib.Path:
    """A CLIP as a hub download would lie on disk."""
    tiny_clip(**kwargs).save_pretrained(folder)
    tiny_tokenizer(folder)
    processor(kwargs.get("image_size", SIZE)).save_pretrained(folder)
    return folder
