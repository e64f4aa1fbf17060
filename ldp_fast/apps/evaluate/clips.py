"""The CLIPs that compare pictures with captions, and their embeddings, each computed once and kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from ...clip import Clip
from ...errors import UsageError, shortened
from ...guidance.loading import embedded_models
from ...metrics import judge_of
from ..clips import load_named, unknown_words
from ..progress import bar
from .features import Keeping, Network, digest_of_texts, features_of
from .gathered import Picture

OPENAI = "openai/clip-vit-base-patch32"
CAPTIONS = 64  # in one pass


def default_clip(model: str | None) -> str:
    """The CLIP that judges where none is named.

    Args:
        model: that made the pictures; an embedded one comes with a CLIP. None: not known, or several.
    """
    return judge_of(model) if model in embedded_models() else OPENAI


def load_clip(
    name: str | None, model: str | None, device: str | None, argument: str = "--clip", own: str = "primitives/judge"
) -> Clip:
    """Loads a CLIP by what was typed, or the default one.

    Args:
        name: as `Clip.load` takes it; None chooses.
        model: see `default_clip`.
        device: of its networks; None: a GPU if there is one.
        argument: that names it, for messages.
        own: what is typed there for the embedded model's.

    Raises:
        UsageError: it cannot be loaded.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return load_named(argument, name or default_clip(model), where)
    except UsageError as error:
        if name is not None:
            raise
        raise UsageError(
            f"{error}; or, for pictures of the embedded model's world, its own: {argument} {own}"
        ) from None


def check_known(clips: Sequence[Clip], captions: Iterable[str]) -> None:
    """Checks that the embedded CLIPs know the words of captions; others take any.

    Raises:
        UsageError: names the words that one does not know.
    """
    for clip in clips:
        for caption in dict.fromkeys(captions):
            unknown = unknown_words(clip.name, caption)
            if unknown:
                raise UsageError(f"caption {shortened(caption)!r}: {clip.name}: {unknown}")


def count_unknown(clips: Sequence[Clip], captions: Iterable[str]) -> dict[str, int]:
    """How many captions have words that an embedded CLIP does not know, by the CLIPs that there are such of."""
    different = list(dict.fromkeys(captions))
    counts = {clip.name: sum(bool(unknown_words(clip.name, caption)) for caption in different) for clip in clips}
    return {name: count for name, count in counts.items() if count}


class Judge:
    """Unit embeddings of pictures and captions by one CLIP, in float64: a `Scorer` of ldp_fast.metrics.retrieval.

    Args:
        clip: that makes them.
        keeping: where they are kept.
        truncate: whether captions that are too long are cut; otherwise they are an error.
    """

    def __init__(self, clip: Clip, keeping: Keeping, truncate: bool = False):
        self.clip, self.keeping, self.truncate = clip, keeping, truncate
        self.name = clip.name
        self._held: dict[str, torch.Tensor] = {}

    def of_pictures(self, pictures: Sequence[Picture]) -> torch.Tensor:
        """`[N, E]`."""
        return _unit(features_of(pictures, network_of(self.clip), self.keeping))

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """`[N, E]` of images `[N, 3, H, W]` in [0, 1]; these are not kept."""
        with torch.no_grad():
            return _unit(self.clip.image_embeddings(images.to(self.clip.device)).cpu().numpy())

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        """`[N, E]` of captions.

        Raises:
            UsageError: a caption is longer than the text tower, and may not be cut.
        """
        new = [caption for caption in dict.fromkeys(captions) if caption not in self._held]
        if new:
            self._held |= zip(new, self._embedded(new), strict=True)
        return torch.stack([self._held[caption] for caption in captions])

    def _embedded(self, captions: Sequence[str]) -> torch.Tensor:
        digests = digest_of_texts(captions)
        by_digest = dict(zip(digests, captions, strict=True))
        about = {"clip": self.clip.digest, "captions": "truncated" if self.truncate else "whole"}
        with self.keeping.store(Network(f"{self.name} captions", about, _nothing)) as store:
            missing = store.missing(digests)
            self._require_whole([by_digest[digest] for digest in missing])
            with bar(len(missing), f"{self.name} captions", "caption", self.keeping.progress) as advance:
                for start in range(0, len(missing), CAPTIONS):
                    part = missing[start : start + CAPTIONS]
                    found = self.clip.text_embeddings([by_digest[digest] for digest in part], truncate=True)
                    for digest, vector in zip(part, found.cpu().numpy(), strict=True):
                        store.add(digest, vector)
                    advance(len(part))
            return _unit(store.rows(digests))

    def _require_whole(self, captions: Sequence[str]) -> None:
        for caption in captions if not self.truncate else ():
            lost = self.clip.lost_words(caption)
            if lost:
                raise UsageError(
                    f"caption {shortened(caption)!r}: {self.name} reads {self.clip.context_length} tokens, and these "
                    f"words would be lost: {shortened(lost, 200)!r}; shorten it, or give --truncate"
                )


def network_of(clip: Clip) -> Network:
    """A CLIP's vision tower, as what makes vectors of pictures."""

    def compute(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return clip.image_embeddings(pixels.to(clip.device).float() / 255)

    return Network(f"{clip.name} pictures", {"clip": clip.digest}, compute)


def _nothing(pixels: torch.Tensor) -> torch.Tensor:
    raise AssertionError("captions are not pictures")


def _unit(vectors: np.ndarray) -> torch.Tensor:
    return F.normalize(torch.from_numpy(vectors).double(), dim=1)
