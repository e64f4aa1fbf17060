"""What a `Clip` asks of the networks behind it, whichever library they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn

# OpenAI's, for weights that do not bring their own.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Towers(Protocol):
    """Both towers of a CLIP with its tokenizer: frozen, in evaluation mode.

    Attributes:
        network: all the weights.
        image_size: pixels per side that the vision tower was made for.
        patch_size: pixels per side of a patch; 0 where the vision tower has no patches.
        context_length: tokens of the text tower, begin and end among them.
        embedding_size: E.
        mean, std: of the channels, of images in [0, 1].
    """

    network: nn.Module
    image_size: int
    patch_size: int
    context_length: int
    embedding_size: int
    mean: Sequence[float]
    std: Sequence[float]

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, E]` of normalised pixels `[B, 3, H, W]`, of another size than `image_size` as `tokens`."""

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens `[B, 1 + P, D]` after all but the last vision block, of normalised pixels of any size.

        Positions are interpolated to the picture's patches (bicubic).

        Raises:
            UsageError: the vision tower is not one whose positions can be interpolated.
        """

    def texts(self, identifiers: torch.Tensor) -> torch.Tensor:
        """Embeddings `[B, E]` of token ids `[B, context_length]`."""

    def tokenize(self, captions: list[str]) -> torch.Tensor:
        """Token ids `[B, context_length]`, padded and cut, on the CPU."""

    def count(self, caption: str) -> int:
        """How many tokens a caption has, begin and end among them, before it is cut."""
