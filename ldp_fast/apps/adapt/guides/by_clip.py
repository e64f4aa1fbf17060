"""StyleGAN-NADA: the direction from a source text to the prompt in CLIP's space, as what guides a generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....clip import Clip
from ....clip.guidance import ClipGuidance
from ....errors import UsageError, shortened
from ....guidance.loading import embedded_models
from ...clips import prompt_embedding, require_known, unknown_words
from ..draws import Draws
from .pictures import clipped, norms, through


class DirectionalGuide:
    """Σ over CLIPs of weight · (1 − cos(Ê(picture) − Ê(source picture), Ê(prompt) − Ê(source prompt))).

    Args:
        clips: frozen, each with its weight; StyleGAN-NADA: ViT-B/32 and ViT-B/16, 1 each.
        source_prompt: what the source generator makes.
        prompt: what the adapted one shall make.
        templates: set of templates for both; directions are averaged over it, see `ClipGuidance.directional`. None is
            StyleGAN-NADA's 79, `imagenet`, or for an embedded CLIP, which does not know their words, `none`.
        pixel_clip: bounds the pixels' gradient by this quantile of its magnitudes, per sample; None: not.

    Attributes:
        device: of the CLIPs.
        model: this; it has `encode_prompt`.
        wants_sources: True: `gradient` looks at the source's pictures.
        columns: names of what `gradient` returns: the loss and the norm of its gradient.
        losses, shown: of them what are losses.

    Raises:
        UsageError: words that an embedded CLIP does not know, texts that are too long or the same.
    """

    columns = ("direction", "norm_pixels")
    losses = shown = ("direction",)
    wants_sources = True

    def __init__(
        self,
        clips: Sequence[tuple[Clip, float]],
        source_prompt: str,
        prompt: str,
        *,
        templates: str | None = None,
        pixel_clip: float | None = None,
    ):
        self.clips, self.pixel_clip = list(clips), pixel_clip
        if source_prompt.strip() == prompt.strip():
            raise UsageError(
                f"source_prompt: expected another text than the prompt, got {shortened(prompt)!r} for both"
            )
        for clip, _ in self.clips:
            require_known(clip, prompt)
            if unknown := unknown_words(clip.name, source_prompt):
                raise UsageError(f"source_prompt: {unknown}")
        self._guides = [
            (ClipGuidance.directional(clip, source_prompt, prompt, templates=templates or _templates(clip)), weight)
            for clip, weight in self.clips
        ]

    @property
    def device(self) -> torch.device:
        """Of the CLIPs."""
        return self.clips[0][0].device

    @property
    def model(self) -> DirectionalGuide:
        """What has `encode_prompt`."""
        return self

    def encode_prompt(self, prompt: str) -> Tensor:
        """A prompt's embedding of the first CLIP, [1, E].

        Raises:
            UsageError: it is longer than a CLIP's text tower, or has words that an embedded CLIP does not know.
        """
        first, *_ = [prompt_embedding(clip, prompt) for clip, _ in self.clips]
        return first

    def gradient(
        self, pictures: Tensor, sources: Tensor, draws: Draws, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """dL/d pictures, L summed over the samples. Keeps no graph, and does not wait for the device.

        Args:
            pictures: of the trained generator, about [-1, 1]; only the values are read  # [B, 3, R, R]
            sources: of the frozen one, from the same w  # [B, 3, R, R]
            draws, progress: not looked at: nothing is drawn.

        Returns:
            Float32 [B, 3, R, R], and by name what `columns` says, each [B].
        """
        found = {"direction": pictures.new_zeros(len(pictures), dtype=torch.float32)}
        before = sources.float().clamp(-1, 1) / 2 + 0.5

        def of_shown(x: Tensor) -> Tensor:
            total = torch.zeros_like(x)
            for guide, weight in self._guides:
                gradient, statistics = guide.gradient(x / 2 + 0.5, source=before)
                # Of a mean over the samples, and of pictures in [0, 1].
                total = total + (weight * len(x) / 2) * gradient
                found["direction"] = found["direction"] + weight * statistics.terms["direction"]
            return clipped(total, self.pixel_clip)

        gradient = through(pictures, (pictures.shape[-2], pictures.shape[-1]), of_shown)
        found["norm_pixels"] = norms(gradient)
        return gradient, found


def _templates(clip: Clip) -> str:
    return "none" if clip.name.partition("/")[0] in embedded_models() else "imagenet"
