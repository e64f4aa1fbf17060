"""CLIP with a prompt, as what guides a mesh."""

from __future__ import annotations

import pathlib

import torch.nn.functional as F
from torch import Tensor

from ...clip import Clip
from ...guidance.loading import embedded_folder, notes_of
from ...guidance.prompts import check_words
from ..hub import check_endpoint, reachable
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
        if embedded_folder(self.clip.name) is not None:
            check_words(prompt, notes_of(self.clip.name.partition("/")[0]))
        return self.clip.text_embeddings([prompt])

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
    check_endpoint()
    here = c.model.startswith("open_clip:") or embedded_folder(c.model) is not None or pathlib.Path(c.model).is_dir()
    name = c.model if here else reachable("--model", c.model, "config.json")
    return Guide(Clip.load(name, where, dtype=DTYPES[c.dtype] if c.dtype else None), c.prompt)
