"""A CLIP of open_clip (optional package `open_clip_torch`): an architecture, and weights that are here already."""

from __future__ import annotations

import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..errors import UsageError
from ..guidance.components import listed, reading
from .towers import MEAN, STD

PREFIX = "open_clip:"


class OpenClipTowers:
    """`Towers` over a model of open_clip.

    Args:
        network: what `open_clip.create_model` gives.
        tokenizer: what `open_clip.get_tokenizer` gives.
        architecture: its name, of messages.
        tag: what open_clip notes about the weights; without `mean` and `std` the network's own are taken.
    """

    def __init__(self, network: Any, tokenizer: Any, architecture: str, tag: Mapping[str, Any]):
        self.network, self.tokenizer, self.architecture = network.eval().requires_grad_(False), tokenizer, architecture
        size = network.visual.image_size
        self.image_size = int(size if isinstance(size, int) else size[0])
        patch = getattr(network.visual, "patch_size", 0) if hasattr(network.visual, "positional_embedding") else 0
        self.patch_size = int(patch if isinstance(patch, int) else patch[0])
        self.context_length = int(tokenizer.context_length)
        self.mean, self.std = (
            tag.get(word) or getattr(network.visual, f"image_{word}", None) or default
            for word, default in (("mean", MEAN), ("std", STD))
        )
        self.embedding_size = self.texts(self.tokenize([""]).to(next(network.parameters()).device)).shape[-1]

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        if tuple(pixels.shape[-2:]) == (self.image_size, self.image_size):
            return self.network.encode_image(pixels)
        return self._seen(pixels)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        found: list[torch.Tensor] = []
        hook = self._transformer().resblocks[-2].register_forward_hook(lambda _module, _inputs, x: found.append(x))
        try:
            self._seen(pixels)
        finally:
            hook.remove()
        (tokens,) = found
        return tokens if getattr(self._transformer(), "batch_first", True) else tokens.transpose(0, 1)

    def _transformer(self) -> Any:
        """The blocks of the vision tower."""
        if not self.patch_size:
            raise UsageError(
                "clip: expected open_clip's own vision transformer for pictures of any size and tokens of patches; "
                f"that of {self.architecture} is {type(self.network.visual).__name__}"
            )
        return self.network.visual.transformer

    def _seen(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings of pixels of any size."""
        self._transformer()
        positions = {"positional_embedding": self._positions(pixels)}
        return torch.func.functional_call(self.network.visual, positions, (pixels,))

    def _positions(self, pixels: torch.Tensor) -> torch.Tensor:
        """The table of positions `[1 + P, D]` for another number of patches, as transformers interpolates it."""
        table: torch.Tensor = self.network.visual.positional_embedding
        rows, columns = (side // self.patch_size for side in pixels.shape[-2:])
        side = self.image_size // self.patch_size
        if (rows, columns) == (side, side):
            return table
        grid = table[1:].T.reshape(1, -1, side, side).float()
        grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False).to(table.dtype)
        return torch.cat([table[:1], grid.flatten(2)[0].T])

    def texts(self, identifiers: torch.Tensor) -> torch.Tensor:
        """See `Towers`."""
        return self.network.encode_text(identifiers)

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        """See `Towers`."""
        return self.tokenizer(captions)

    def count(self, caption: str) -> int:
        """See `Towers`."""
        if hasattr(self.tokenizer, "encode"):
            return len(self.tokenizer.encode(caption)) + 2
        return len(self.tokenizer.tokenizer(self.tokenizer.clean_fn(caption)).input_ids)


def load(name: str, device: torch.device, dtype: torch.dtype) -> OpenClipTowers:
    """Loads `open_clip:ARCHITECTURE:WEIGHTS`, where WEIGHTS is a file, or a tag of open_clip's that is in the cache.

    Nothing is ever fetched.

    Raises:
        UsageError: open_clip is not installed, it does not know the architecture, or the weights are not here.
    """
    architecture, _, weights = name.removeprefix(PREFIX).partition(":")
    if not architecture or not weights:
        raise UsageError(f"clip: expected open_clip:ARCHITECTURE:WEIGHTS, as open_clip:ViT-B-32:FILE, got {name!r}")
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(
            f"clip: {name!r} needs open_clip ({error}): pip install 'ldp-fast[openclip]', with the torchvision that "
            "belongs to this torch"
        ) from None
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UsageError(f"clip: open_clip does not know the architecture {architecture!r} ({_near(architecture)})")
    text = config.get("text_cfg", {})
    words = text.get("hf_tokenizer_name")
    if text.get("hf_model_name") or (not words and "siglip" in architecture.lower()):
        raise UsageError(
            f"clip: open_clip's {architecture} fetches parts of itself from the network: expected an architecture "
            "that is whole in open_clip, such as ViT-B-32"
        )
    file, tag = _weights(open_clip, architecture, weights)
    quick = {"force_quick_gelu": True} if tag.get("quick_gelu") else {}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # what open_clip logs about how it reads a name, to the root logger
    try:
        with reading("clip", repr(name), file):
            network: Any = open_clip.create_model(
                architecture,
                pretrained=str(file),
                **quick,
            )
            tokenizer = open_clip.get_tokenizer(architecture, **({"local_files_only": True} if words else {}))
    finally:
        logging.disable(level)
    return OpenClipTowers(network.to(device, dtype), tokenizer, architecture, tag)


def _near(architecture: str) -> str:
    import difflib

    import open_clip

    near = difflib.get_close_matches(architecture, open_clip.list_models(), n=3)
    return f"did you mean {listed(near)}?" if near else "open_clip.list_models() lists them"


def _weights(open_clip: Any, architecture: str, weights: str) -> tuple[pathlib.Path, dict[str, Any]]:
    """The file of the weights, and what open_clip notes about it where they were named by a tag."""
    path = pathlib.Path(weights).expanduser()
    if path.is_file():
        return path, {}
    tag = open_clip.get_pretrained_cfg(architecture, weights)
    if not tag:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = f"its tags are {listed(tags)}" if tags else "it has none"
        raise UsageError(
            f"clip: expected a file, or a tag of open_clip's {architecture} ({known}), got {weights!r}: there is no "
            "such file"
        )
    found = _cached(tag)
    if found is None:
        source = f"https://huggingface.co/{tag['hf_hub']}" if tag.get("hf_hub") else tag.get("url")
        raise UsageError(
            f"clip: the weights {weights!r} of open_clip's {architecture} are not in the cache, and nothing is fetched "
            f"without being asked: fetch them from {source}, and give the file"
        )
    return found, dict(tag)


def _cached(tag: dict[str, Any]) -> pathlib.Path | None:
    if tag.get("hf_hub"):
        from huggingface_hub import try_to_load_from_cache

        model, file = os.path.split(tag["hf_hub"])
        names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        for name in names:
            held = try_to_load_from_cache(model, name)
            if isinstance(held, str):
                return pathlib.Path(held)
    if tag.get("url"):
        path = pathlib.Path("~/.cache/clip").expanduser() / os.path.basename(tag["url"])
        if path.is_file():
            return path
    return None
