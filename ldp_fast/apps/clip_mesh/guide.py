"""CLIP with a prompt, as what guides a mesh."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...clip import Clip
from ..clips import load_named, prompt_embedding
from ..options import DTYPES, check_backend
from .configuration import ClipMesh


class Guide:
    """A frozen CLIP, and the embedding of a prompt.

    Args:
        clip: frozen.
        prompt: what to make.

    Raises:
        UsageError: see `encode_prompt`.
    """

    def __init__(self, clip: Clip, prompt: str):
        self.clip = clip
        self.text = self.encode_prompt(prompt)

    def encode_prompt(self, prompt: str) -> Tensor:
        """A prompt's embedding, [1, E].

        Raises:
            UsageError: it is longer than CLIP's text tower, or has words that an embedded CLIP does not know.
        """
        return prompt_embedding(self.clip, prompt)

    def cosines(self, pictures: Tensor) -> Tensor:
        """Cosines [V] of pictures [V, 3, H, W] in [0, 1] with the prompt; gradients flow into the pictures."""
        return F.cosine_similarity(self.clip.image_embeddings(pictures), self.text)


def load_guide(configuration: ClipMesh, device: str | None = None) -> Guide:
    """The guide that a configuration describes.

    Args:
        configuration: of a run.
        device: in place of the configuration's.

    Raises:
        UsageError: a CLIP or a device that cannot be used; see `Guide`.
    """
    c, where = configuration, device or configuration.device or "cpu"
    check_backend(where)
    return Guide(load_named("--model", c.model, where, DTYPES[c.dtype] if c.dtype else None), c.prompt)
