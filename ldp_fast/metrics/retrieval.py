"""CLIP retrieval: does CLIP pick the right caption, among distractors (the paper) or in a whole list (DreamFields)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ..clip import Clip
from ..errors import UsageError, shortened

JUDGE = "judge"  # the folder of a CLIP that conditioned nothing, beside a model's others
# Cosines of float32 features are not told apart below this: what two captions tie by must not hang on rounding.
TIE = 1e-6
_PICTURES = 64  # in one pass
_CAPTIONS = 256
_RESAMPLES = 10_000


def judge_of(model: str) -> str:
    """What `ClipScorer.from_pretrained` takes to judge what an embedded model made.

    That is the CLIP which did not condition the model, if it comes with one, else the model's own.
    """
    from ..guidance.loading import embedded_folder

    judge = f"{model}/{JUDGE}"
    return model if embedded_folder(judge) is None else judge


class Scorer(Protocol):
    """What the protocols ask of a CLIP: unit features. `ClipScorer` is one."""

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """`[B, E]` of images `[B, 3, H, W]` in [0, 1]."""

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """`[B, E]` of captions."""


class ClipScorer:
    """Unit features of pictures and captions by a CLIP, without gradients.

    Args:
        clip: the CLIP.
        truncate: cut captions that are longer than its text tower; otherwise they are an error.

    Attributes:
        clip: the CLIP.
        truncate: whether captions are cut.

    Examples:
        >>> import torch
        >>> from ldp_fast.metrics import ClipScorer
        >>> scorer = ClipScorer.from_pretrained("primitives")
        >>> words = scorer.text_features(["a red cube", "a blue sphere"])
        >>> pictures = scorer.image_features(torch.rand(3, 3, 64, 64))
        >>> (pictures @ words.T).shape  # cosines: three pictures, two captions
        torch.Size([3, 2])
    """

    def __init__(self, clip: Clip, truncate: bool = False):
        self.clip, self.truncate = clip, truncate

    @classmethod
    def from_pretrained(
        cls, name: str = "primitives", device: str | torch.device = "cpu", *, truncate: bool = False
    ) -> ClipScorer:
        """Loads what `Clip.load` loads: `primitives`, `primitives/judge`, a folder, a hub name, `open_clip:…`.

        Raises:
            UsageError: it cannot be loaded; the reason is in the message.
        """
        return cls(Clip.load(name, device), truncate)

    @torch.no_grad()
    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Unit features `[B, E]` of images `[B, 3, H, W]` in [0, 1], which `Clip.image_embeddings` resizes and cuts."""
        return F.normalize(self.clip.image_embeddings(images), dim=-1)

    @torch.no_grad()
    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """Unit features `[B, E]` of captions.

        Raises:
            UsageError: a caption is too long and is not to be truncated; the message has the words that would be lost.
        """
        return F.normalize(self.clip.text_embeddings(captions, truncate=self.truncate), dim=-1)


def _itself(caption: str) -> Hashable:
    return caption


def r_precision(
    scorer: Scorer,
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
        images: `[B, 3, H, W]` in [0, 1], or their unit features `[B, E]` where those are known already.
        captions: B captions, the right ones.
        pool: where distractors are drawn from, for each image anew, without replacement and never the right one.
        distractors: how many (the paper: 99).
        seed: of the draws; or one an image, so that its draw does not depend on the images before it.
        identity: what a caption shows. A distractor that shows the same as the right caption would not be a mistake, so
            captions of the same identity are never drawn against each other, and only the first of them is in the pool.

    Returns:
        `[B]` bool; its mean is the R-Precision. A tie, to float32's resolution (1e-6 of a cosine), counts as wrong.

    Raises:
        ValueError: the pool is too small, or there is not a caption or a seed an image.
        UsageError: a caption is longer than the scorer reads.
    """
    _require_a_caption_each("r_precision", images, captions)
    if not isinstance(seed, int) and len(seed) != len(images):
        raise ValueError(f"r_precision: seed: expected one number or {len(images)} of them, got {len(seed)}")
    names, index = _different(pool, identity)
    if len(names) <= distractors:
        raise ValueError(f"r_precision: pool: expected more than {distractors} different captions, got {len(names)}")
    ahead = _ahead(scorer, images, captions, names)
    generator = torch.Generator()
    if isinstance(seed, int):
        generator.manual_seed(seed)
    right = []
    for row, caption in enumerate(captions):
        if not isinstance(seed, int):
            generator.manual_seed(seed[row])
        order = torch.randperm(len(names), generator=generator)
        others = order[order != index.get(identity(caption), -1)][:distractors]
        right.append(bool(ahead[row, others].min() > TIE))
    return torch.tensor(right, dtype=torch.bool)


def n_way(
    scorer: Scorer,
    images: torch.Tensor,
    captions: Sequence[str],
    candidates: Sequence[str],
    *,
    identity: Callable[[str], Hashable] = _itself,
) -> torch.Tensor:
    """For each image: is its own caption the nearest of the whole list (DreamFields' R-Precision)?

    DreamFields takes its 153 captions as the list (`object_centric_coco`), and one render an object, from a fixed
    camera whose height training never had: azimuth −30°, elevation 45°.

    Args:
        scorer: the CLIP that judges; DreamFields: ViT-B/32, where B/16 guided.
        images: `[B, 3, H, W]` in [0, 1], or their unit features `[B, E]` where those are known already.
        captions: B captions, the right ones, each of them in the list.
        candidates: the list.
        identity: what a caption shows; of candidates of one identity only the first counts.

    Returns:
        `[B]` bool. A tie, to float32's resolution (1e-6 of a cosine), counts as wrong, where argmax would take the
        first of the list.

    Raises:
        ValueError: there is not a caption an image.
        UsageError: a caption that is not in the list or is longer than the scorer reads, or fewer than two candidates.
    """
    _require_a_caption_each("n_way", images, captions)
    names, index = _different(candidates, identity)
    if len(names) < 2:
        raise UsageError(f"candidates: expected at least 2 different captions, got {len(names)}")
    lacking = next((caption for caption in captions if identity(caption) not in index), None)
    if lacking is not None:
        raise UsageError(
            f"candidates: expected every caption among them, {shortened(lacking)!r} is not one of the {len(names)}"
        )
    if not len(captions):
        return torch.zeros(0, dtype=torch.bool)
    ahead = _ahead(scorer, images, captions, names)
    ahead[torch.arange(len(captions)), torch.tensor([index[identity(c)] for c in captions])] = torch.inf
    return (ahead > TIE).all(1)


def _require_a_caption_each(name: str, images: torch.Tensor, captions: Sequence[str]) -> None:
    if len(captions) != len(images):
        raise ValueError(f"{name}: captions: expected {len(images)}, one an image, got {len(captions)}")


def _different(pool: Sequence[str], identity: Callable[[str], Hashable]) -> tuple[list[str], dict[Hashable, int]]:
    """The first caption of each identity, and where it is."""
    shown: dict[Hashable, str] = {}
    for name in pool:
        shown.setdefault(identity(name), name)
    return list(shown.values()), {key: i for i, key in enumerate(shown)}


def features_of_images(scorer: Scorer, images: torch.Tensor) -> torch.Tensor:
    """Unit features `[B, E]` of images `[B, 3, H, W]`, a batch at a time; features `[B, E]` come back as they are."""
    if images.dim() == 2:
        return images
    return torch.cat([scorer.image_features(part) for part in images.split(_PICTURES)])


def features_of_captions(scorer: Scorer, captions: Sequence[str]) -> torch.Tensor:
    """Unit features `[B, E]` of captions, a batch at a time, each different caption once."""
    rows = {caption: row for row, caption in enumerate(dict.fromkeys(captions))}
    different = list(rows)
    parts = [scorer.text_features(different[i : i + _CAPTIONS]) for i in range(0, len(different), _CAPTIONS)]
    return torch.cat(parts)[[rows[caption] for caption in captions]]


def _ahead(scorer: Scorer, images: torch.Tensor, captions: Sequence[str], names: Sequence[str]) -> torch.Tensor:
    """`[B, N]` float64 on the CPU: by how much an image's cosine to its own caption is above that to each name."""
    seen = features_of_images(scorer, images).double().cpu()
    own = (seen * features_of_captions(scorer, captions).double().cpu()).sum(1, keepdim=True)
    return own - seen @ features_of_captions(scorer, names).double().cpu().T


def bootstrap_interval(
    hits: Sequence[Sequence[bool | float]], seed: int = 0, *, level: float = 0.95
) -> tuple[float, float] | None:
    """The interval in which a mean over objects lies, had other objects of the same kind been taken: percentiles.

    Objects are drawn anew, with replacement, 10 000 times; what belongs to one object stays together, for its views are
    not independent of each other. Where all objects have the same mean, the interval has no width, however few they
    are: it says nothing then about objects that were not taken.

    Args:
        hits: of each object, one number a view or repetition: a hit or not, or any score.
        seed: of the draws.
        level: the share of the draws that lies within.

    Returns:
        Its ends; None for fewer than two objects, from which nothing can be said about others.

    Raises:
        ValueError: an object without a number, or a level outside of (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"bootstrap_interval: level: expected between 0 and 1, got {level:g}")
    if any(len(views) == 0 for views in hits):
        raise ValueError("bootstrap_interval: hits: expected at least one number an object, got an object without one")
    if len(hits) < 2:
        return None
    means = np.array([np.mean(np.asarray(views, dtype=np.float64)) for views in hits])
    rng = np.random.default_rng(seed)
    drawn = [means[rng.integers(0, len(means), len(means))].mean() for _ in range(_RESAMPLES)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
