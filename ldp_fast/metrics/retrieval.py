"""CLIP retrieval: R-Precision, does CLIP pick the right caption among distractors (paper Table 1)."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

JUDGE = "judge"  # the folder of a CLIP that conditioned nothing, beside a model's others


def judge_of(model: str) -> str:
    """What `ClipScorer.from_pretrained` takes to judge what an embedded model made.

    That is the CLIP which did not condition the model, if it comes with one, else the model's own.
    """
    from ..guidance.loading import embedded_folder

    judge = f"{model}/{JUDGE}"
    return model if embedded_folder(judge) is None else judge


class ClipScorer:
    """A CLIP model with its tokenizer and its image normalisation.

    Args:
        model: transformers' CLIPModel.
        tokenizer: its tokenizer.
        mean: of the channels, subtracted from images in [0, 1].
        std: of the channels.

    Examples:
        >>> import torch
        >>> from ldp_fast.metrics import ClipScorer
        >>> scorer = ClipScorer.from_pretrained("primitives")
        >>> words = scorer.text_features(["a red cube", "a blue sphere"])
        >>> pictures = scorer.image_features(torch.rand(3, 3, 64, 64))
        >>> (pictures @ words.T).shape  # cosines: three pictures, two captions
        torch.Size([3, 2])
    """

    def __init__(self, model: Any, tokenizer: Any, mean: Sequence[float], std: Sequence[float]):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self._mean, self._std = (torch.tensor(list(x)).view(1, 3, 1, 1) for x in (mean, std))

    @classmethod
    def from_pretrained(cls, name: str = "primitives", device: str | torch.device = "cpu") -> ClipScorer:
        """Loads the CLIP of an embedded model (or of a folder made like one), a CLIP's own folder, or a hub name.

        `primitives` is the CLIP whose text tower conditions the model, `primitives/judge` one that conditioned nothing.

        Raises:
            UsageError: it cannot be loaded; the reason is in the message.
        """
        from transformers import CLIPModel, CLIPTokenizer

        from ..guidance.components import load_network, load_tokenizer, reading, require_vocabularies
        from ..guidance.loading import embedded_folder

        folder, tokenizer = embedded_folder(name) or pathlib.Path(name), name
        if (folder / "clip").is_dir():
            folder = folder / "clip"
        alone = not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json"))
        if alone and (folder.parent / "tokenizer").is_dir():
            tokenizer = str(folder.parent / "tokenizer")
        with reading("clip", repr(name), folder):
            model = load_network(CLIPModel, str(folder), what=f"the CLIP of {name!r}")
            words = load_tokenizer(CLIPTokenizer, tokenizer, what=f"the tokenizer of {name!r}")
            require_vocabularies(name, {"tokenizer": words, "text_encoder": model.text_model})
        config = folder / "preprocessor_config.json"
        # OpenAI's constants where a folder does not bring its own.
        how = json.loads(config.read_text()) if config.is_file() else {}
        mean = how.get("image_mean", [0.48145466, 0.4578275, 0.40821073])
        std = how.get("image_std", [0.26862954, 0.26130258, 0.27577711])
        return cls(model.to(device), words, mean, std)

    @torch.no_grad()
    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit features `[B, E]` of images `[B, 3, H, W]` in [0, 1]."""
        size = self.model.config.vision_config.image_size
        device = next(self.model.parameters()).device
        images = images.to(device, torch.float32)
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        pixels = (images - self._mean.to(device)) / self._std.to(device)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """Unit features `[B, E]` of captions."""
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
        )
        device = next(self.model.parameters()).device
        pooled = self.model.text_model(input_ids=tokens.input_ids.to(device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1)


def _itself(caption: str) -> Hashable:
    return caption


def r_precision(
    scorer: ClipScorer,
    images: torch.Tensor,
    captions: Sequence[str],
    pool: Sequence[str],
    *,
    distractors: int = 99,
    seed: int | Sequence[int] = 0,
    identity: Callable[[str], Hashable] = _itself,
) -> torch.Tensor:
    """For each image: is its own caption nearer than every one of `distractors` others?

    Args:
        scorer: the CLIP that judges.
        images: `[B, 3, H, W]` in [0, 1].
        captions: B captions, the right ones.
        pool: where distractors are drawn from, for each image anew, without replacement and never the right one.
        distractors: how many (the paper: 99).
        seed: of the draws; or one an image, so that its draw does not depend on the images before it.
        identity: what a caption shows. A distractor that shows the same as the right caption would not be a mistake, so
            captions of the same identity are never drawn against each other, and only the first of them is in the pool.

    Returns:
        `[B]` bool; its mean is the R-Precision. A tie counts as wrong.

    Raises:
        ValueError: the pool is too small, or there is not a caption or a seed an image.
    """
    if len(captions) != len(images):
        raise ValueError(f"r_precision: captions: expected {len(images)}, one an image, got {len(captions)}")
    if not isinstance(seed, int) and len(seed) != len(images):
        raise ValueError(f"r_precision: seed: expected one number or {len(images)} of them, got {len(seed)}")
    shown: dict[Hashable, str] = {}
    for name in pool:
        shown.setdefault(identity(name), name)
    if len(shown) <= distractors:
        raise ValueError(f"r_precision: pool: expected more than {distractors} different captions, got {len(shown)}")
    names, index = list(shown.values()), {key: i for i, key in enumerate(shown)}
    features = torch.cat([scorer.text_features(names[i : i + 256]) for i in range(0, len(names), 256)])
    seen = torch.cat([scorer.image_features(x) for x in images.split(64)])
    similarity, own = seen @ features.T, (seen * scorer.text_features(captions)).sum(1)
    generator = torch.Generator()
    if isinstance(seed, int):
        generator.manual_seed(seed)
    right = []
    for row, caption in enumerate(captions):
        if not isinstance(seed, int):
            generator.manual_seed(seed[row])
        order = torch.randperm(len(names), generator=generator)
        others = order[order != index.get(identity(caption), -1)][:distractors]
        right.append(bool(own[row] > similarity[row, others.to(similarity.device)].max()))
    return torch.tensor(right)
