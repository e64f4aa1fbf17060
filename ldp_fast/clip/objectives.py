"""What guidance by CLIP minimises: DreamFields' cosine, StyleGAN-NADA's direction, Text2LIVE's sum of terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import UsageError
from . import augment, losses
from .model import Clip
from .relevancy import relevancy_map
from .views import text2live_views

GREEN = (0.0, 177 / 255, 64 / 255)  # of Text2LIVE's screen


class Call(NamedTuple):
    """What one call is given, checked.

    Attributes:
        images: [B, 3, H, W] or [B, 4, H, W], float32 or float64.
        source: the pictures that are edited, [B, 3, H, W]; None where there are none.
        relevance: where the edit belongs, [B, 1, h, w]; None where that is not said.
        step: of the run, from 0.
        numbers: what is drawn from.
    """

    images: Tensor
    source: Tensor | None
    relevance: Tensor | None
    step: int
    numbers: tuple[int, ...]


class Term(NamedTuple):
    """One term of the loss: its λ (−1 of what is to grow), and its value for each image, [B]."""

    weight: float
    values: Tensor


class Objective(Protocol):
    """What is minimised.

    Attributes:
        channels: how many an image may have.
        wants_source: whether the pictures that are edited are needed.
    """

    @property
    def channels(self) -> tuple[int, ...]: ...
    @property
    def wants_source(self) -> bool: ...

    def terms(self, clip: Clip, call: Call) -> dict[str, Term]:
        """The terms by name, on the graph of `call.images`."""


@dataclasses.dataclass(frozen=True)
class Cosine:
    """−cos(E(view), text), mean over the views.

    Attributes:
        texts: unit embeddings, [1, E] for all images or [B, E].
        views: of each image.
        crop: side of a view in the image, in pixels (int) or as a share of the shorter side (float); None is all of it.
        kinds, blur: of the backgrounds of images with opacity, see `augment.backgrounds`.
        premultiplied: see `augment.over`.
    """

    texts: Tensor
    views: int = 8
    crop: int | float | None = 154 / 168
    kinds: Sequence[str] = augment.KINDS
    blur: tuple[float, float] | None = augment.BLUR
    premultiplied: bool = False

    channels = (3, 4)
    wants_source = False

    def terms(self, clip: Clip, call: Call) -> dict[str, Term]:
        """See `Objective`."""
        images, crop = call.images, self.crop
        if isinstance(crop, float):
            crop = max(1, round(crop * min(images.shape[-2:])))
        generator = augment.step_generator(images.device, *call.numbers)
        views = augment.dream_fields(
            images, clip.image_size, crop, self.views, generator,
            kinds=self.kinds, blur=self.blur, premultiplied=self.premultiplied,
        )  # fmt: skip
        seen = losses.unit(clip.image_embeddings(views)).unflatten(0, (self.views, len(images)))
        return {"cosine": Term(-1.0, (seen * self.texts).sum(-1).mean(0))}


@dataclasses.dataclass(frozen=True)
class Directional:
    """1 − cos(Ê(I) − Ê(I_source), direction), Ê of unit length.

    Attributes:
        direction: of the texts, [1, E].
        floor: see `losses.directional_distance`.
    """

    direction: Tensor
    floor: float = losses.NADA_FLOOR

    channels = (3,)
    wants_source = True

    def terms(self, clip: Clip, call: Call) -> dict[str, Term]:
        """See `Objective`."""
        assert call.source is not None
        with torch.no_grad():
            before = losses.unit(clip.image_embeddings(call.source))
        edit = losses.unit(clip.image_embeddings(call.images)) - before
        return {"direction": Term(1.0, losses.directional_distance(edit, self.direction, self.floor))}


@dataclasses.dataclass(frozen=True)
class Text2LiveSettings:
    """Text2LIVE's λ's and numbers (`configs/image_config.yaml`). A λ of 0 leaves its term out.

    Attributes:
        composition: λ of the edited picture's distance and direction.
        screen: λ of the edit layer's distance, over a green screen.
        structure: λ of the self-similarity.
        sparsity: λ of the opacity's penalty.
        bootstrap: λ of the opacity's distance to the relevancy map at the start; it falls linearly to 0.
        bootstrap_steps: over so many steps (the source: 1000 where it bootstraps).
        l1, l0: weights within the sparsity.
        views: of each picture.
        longest: a view's longer side has at most so many times CLIP's size (320/224); the shorter has CLIP's size.
        structure_longest: the same of the structure's picture (380/224).
    """

    composition: float = 1.0
    screen: float = 1.0
    structure: float = 2.0
    sparsity: float = 6.0
    bootstrap: float = 10.0
    bootstrap_steps: int = 1000
    l1: float = 0.01
    l0: float = 0.01
    views: int = 16
    longest: float = 320 / 224
    structure_longest: float = 380 / 224

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            low = 1 if field.name in ("views", "longest", "structure_longest") else 0
            kinds, what = ((int,), "a whole number") if field.type == "int" else ((int, float), "a number")
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value < float("inf"):
                raise UsageError(f"{field.name}: expected {what} of at least {low}; got {value!r}")


@dataclasses.dataclass(frozen=True)
class Text2Live:
    """Text2LIVE's loss on an edit layer: colour and opacity, [B, 4, H, W]; or on edited pictures, [B, 3, H, W].

    Attributes:
        target: embeddings of the edited picture's text in its templates, [n, E], not normalised.
        source: of the source picture's text in the same templates, [n, E].
        screen: of the edit layer's text in the screen's templates, [m, E].
        bootstrap: of the text that says where the edit belongs, [1, E]; None without.
        settings: λ's and numbers.
    """

    target: Tensor
    source: Tensor
    screen: Tensor
    bootstrap: Tensor | None
    settings: Text2LiveSettings

    channels = (3, 4)
    wants_source = True

    def terms(self, clip: Clip, call: Call) -> dict[str, Term]:
        """See `Objective`."""
        s, images, found = self.settings, call.images, {}
        assert call.source is not None
        before = call.source.to(images.dtype)
        layered = images.shape[1] == 4
        colour, opacity = images[:, :3], images[:, 3:]
        edited = augment.over(colour, opacity, before) if layered else images
        bootstrapped = s.bootstrap > 0 and (self.bootstrap is not None or call.relevance is not None)
        self._require_opacity(layered, bootstrapped)
        generator = augment.step_generator(images.device, *call.numbers, 0)
        if s.composition > 0:
            found["composition"] = Term(s.composition, self._distance(clip, edited, self.target, generator, call, 1))
            found["direction"] = Term(s.composition, self._direction(clip, before, edited, generator, call))
        if s.screen > 0:
            green = _colour(GREEN, images)
            over_green = augment.over(colour, opacity, green)
            found["screen"] = Term(s.screen, self._distance(clip, over_green, self.screen, generator, call, 4))
        if s.structure > 0:
            found["structure"] = Term(s.structure, self._structure(clip, before, edited))
        if s.sparsity > 0:
            found["sparsity"] = Term(s.sparsity, losses.sparsity(opacity, s.l1, s.l0))
        if bootstrapped and call.step < s.bootstrap_steps:
            annealed = s.bootstrap * (1 - (call.step + 1) / s.bootstrap_steps)
            found["bootstrap"] = Term(annealed, self._bootstrap(clip, before, opacity, call.relevance))
        return found

    def _require_opacity(self, layered: bool, bootstrapped: bool) -> None:
        s = self.settings
        if not layered and (s.screen > 0 or s.sparsity > 0 or bootstrapped):
            raise UsageError(
                "images: expected [B, 4, H, W], colour and opacity of the edit layer, for the terms screen, sparsity "
                "and bootstrap; for edited pictures [B, 3, H, W] set screen=0, sparsity=0, bootstrap=0"
            )

    def _views(self, clip: Clip, images: Tensor, numbers: tuple[int, ...]) -> Tensor:
        """Embeddings of the views, not normalised, [V·B, E]."""
        s, side = self.settings, clip.image_size
        views = text2live_views(
            images, short_side=side, longest=round(s.longest * side), count=s.views, numbers=numbers
        )
        return clip.image_embeddings(views, whole=True)

    def _distance(
        self, clip: Clip, images: Tensor, texts: Tensor, generator: torch.Generator, call: Call, stream: int
    ) -> Tensor:
        """Spherical distance of views to a random subset of the texts, [B]."""
        weights = losses.subset_weights(len(texts), generator)
        seen = self._views(clip, images, (*call.numbers, stream))
        apart = losses.spherical_distance(seen[:, None], texts)
        return (apart * weights).sum(1).unflatten(0, (-1, len(images))).mean(0)

    def _direction(self, clip: Clip, before: Tensor, edited: Tensor, generator: torch.Generator, call: Call) -> Tensor:
        """Directional distance of each view of the edited picture to another view of the source, [B]."""
        weights = losses.subset_weights(len(self.target), generator)
        with torch.no_grad():
            start = self._views(clip, before, (*call.numbers, 2))
        edit = self._views(clip, edited, (*call.numbers, 3)) - start
        apart = losses.directional_distance(edit[:, None], self.target - self.source, losses.TEXT2LIVE_FLOOR)
        return (apart * weights).sum(1).unflatten(0, (-1, len(edited))).mean(0)

    def _structure(self, clip: Clip, before: Tensor, edited: Tensor) -> Tensor:
        size = {"short_side": clip.image_size, "longest": round(self.settings.structure_longest * clip.image_size)}
        with torch.no_grad():
            wanted = clip.patch_tokens(before, **size)
        return losses.structure_distance(clip.patch_tokens(edited, **size), wanted)

    def _bootstrap(self, clip: Clip, before: Tensor, opacity: Tensor, relevance: Tensor | None) -> Tensor:
        if relevance is None:
            assert self.bootstrap is not None
            relevance = relevancy_map(clip, before, self.bootstrap)
        wanted = augment.resized(relevance.to(opacity.dtype), clip.image_size)
        return (augment.resized(opacity, clip.image_size) - wanted).square().mean((1, 2, 3))


def _colour(values: Sequence[float], like: Tensor) -> Tensor:
    # Filled on the device: a tensor made from a list would be copied there, and the host would wait for it.
    return torch.cat([like.new_full((1, 1, 1, 1), value) for value in values], 1)
