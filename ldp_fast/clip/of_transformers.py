"""A CLIP of transformers' `CLIPModel`: embedded, a folder, or a hub name."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import torch

from ..guidance.components import load_network, load_tokenizer, reading, require_vocabularies
from ..guidance.loading import embedded_folder
from .towers import MEAN, STD


class TransformersTowers:
    """`Towers` over transformers' CLIPModel.

    Args:
        network: the CLIPModel.
        tokenizer: its CLIPTokenizer.
        mean, std: of the channels, of images in [0, 1].
    """

    def __init__(self, network: Any, tokenizer: Any, mean: Any = MEAN, std: Any = STD):
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        vision, text = network.config.vision_config, network.config.text_config
        self.image_size, self.patch_size = int(vision.image_size), int(vision.patch_size)
        self.context_length = int(text.max_position_embeddings)
        self.embedding_size = int(network.config.projection_dim)
        self.mean, self.std = mean, std

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        whole = tuple(pixels.shape[-2:]) == (self.image_size, self.image_size)
        seen = self.network.vision_model(pixel_values=pixels, interpolate_pos_encoding=not whole)
        return self.network.visual_projection(seen.pooler_output)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        found = self.network.vision_model(pixel_values=pixels, output_hidden_states=True, interpolate_pos_encoding=True)
        return found.hidden_states[-2]

    def texts(self, identifiers: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        return self.network.text_projection(self.network.text_model(input_ids=identifiers).pooler_output)

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        """See `Towers`."""
        return self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.context_length, return_tensors="pt"
        ).input_ids

    def count(self, caption: str) -> int:
        """See `Towers`."""
        return len(self.tokenizer(caption, truncation=False, verbose=False).input_ids)


def load(name: str, device: torch.device, dtype: torch.dtype) -> TransformersTowers:
    """Loads the CLIP of an embedded model, of a folder (its own or one with `clip/` inside), or of a hub name.

    Raises:
        UsageError: it cannot be loaded or is not whole; the reason is in the message.
    """
    from transformers import CLIPModel, CLIPTokenizer

    folder, tokenizer = embedded_folder(name) or pathlib.Path(name).expanduser(), name
    if folder.is_dir():
        if (folder / "clip").is_dir():
            folder = folder / "clip"
        own = any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json"))
        beside = folder.parent / "tokenizer"
        tokenizer = str(beside if not own and beside.is_dir() else folder)
    where = str(folder) if folder.is_dir() else name
    with reading("clip", repr(name), folder):
        network = load_network(CLIPModel, where, what=f"the CLIP of {name!r}", dtype=dtype)
        words = load_tokenizer(CLIPTokenizer, tokenizer, what=f"the tokenizer of {name!r}")
        require_vocabularies(name, {"tokenizer": words, "text_encoder": network.text_model})
        config = folder / "preprocessor_config.json"
        how = json.loads(config.read_text()) if config.is_file() else {}
    return TransformersTowers(
        network.to(device), words, how.get("image_mean", list(MEAN)), how.get("image_std", list(STD))
    )
