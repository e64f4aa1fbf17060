"""CLIP with a prompt, as what guides a scene in RGB and shows it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ...clip import Clip
from ...clip.guidance import ClipGuidance
from ..clips import load_named, prompt_embedding, require_known
from ..memory import counted
from ..options import DTYPES, check_backend
from .colours import Colours
from .sections import DreamFields


class ClipGuide(Colours):
    """The CLIP of a run, and its prompt.

    Args:
        clip: frozen.
        configuration: of the run.

    Attributes:
        clip: see above.
        guidance: DreamFields' way of it, over renderings with opacity [B, 4, H, W]; colours lie on black.

    Raises:
        UsageError: see `encode_prompt`.
    """

    def __init__(self, clip: Clip, configuration: DreamFields):
        super().__init__(clip.device, configuration.size)
        self.clip, options = clip, configuration.augmentation
        require_known(clip, configuration.prompt)
        self.guidance = ClipGuidance.cosine(
            clip,
            configuration.prompt,
            views=options.crops,
            crop=options.side,
            kinds=options.backgrounds,
            blur=options.blur,
            # What is rendered is multiplied by the opacity already.
            premultiplied=True,
            seed=configuration.seed,
        )

    def encode_prompt(self, prompt: str) -> Tensor:
        """The prompt's embedding, [1, E].

        Raises:
            UsageError: it is longer than CLIP's text tower, or has words that an embedded CLIP does not know.
        """
        return prompt_embedding(self.clip, prompt)

    @functools.cached_property
    def crop_bytes(self) -> int:
        """Memory that one crop takes in CLIP until its backward, counted while one is computed."""
        image = torch.zeros(1, 3, self.clip.image_size, self.clip.image_size, device=self.device, requires_grad=True)
        with torch.enable_grad(), counted(image.device, self.clip.towers.network.parameters()) as kept:
            found = self.clip.image_embeddings(image)
        # What was saved lives until here, so that no two of it had one place.
        del found
        return sum(kept.values())


def load_guide(configuration: DreamFields, device: str | None = None) -> ClipGuide:
    """The guide that a configuration describes.

    Args:
        configuration: of a run.
        device: in place of the configuration's.

    Raises:
        UsageError: an unknown CLIP or device, a CLIP that cannot be fetched; see `ClipGuide.encode_prompt`.
    """
    c, where = configuration, device or configuration.device or "cpu"
    check_backend(where)
    return ClipGuide(load_named("--guidance-clip", c.guide, where, DTYPES[c.dtype] if c.dtype else None), c)
