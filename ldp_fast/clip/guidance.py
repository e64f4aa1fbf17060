"""`ClipGuidance`: CLIP as a prior over pictures, as a loss or as a gradient, in three ways of the literature."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError, shortened
from . import augment, losses
from .model import Clip
from .objectives import Call, Cosine, Directional, Objective, Text2Live, Text2LiveSettings
from .templates import filled, template_set


@dataclasses.dataclass(frozen=True)
class ClipStatistics:
    """What happened in a step, on the device; `read()` brings it to the host.

    Attributes:
        terms: value of each term for each image, without its λ, by name, each [B].
        weights: their λ's at this step.
        outside: share of the images' values outside of [0, 1], [B]: above 0, the images are likely in [-1, 1].
    """

    terms: dict[str, Tensor]
    weights: dict[str, float]
    outside: Tensor

    def read(self) -> dict[str, float]:
        """Batch means as Python numbers, `outside` among them. Synchronises with the device."""
        return {name: float(x.mean()) for name, x in {**self.terms, "outside": self.outside}.items()}


@dataclasses.dataclass(frozen=True)
class ClipOutput:
    """Loss mode's result: `loss` = Σ λ·term, scalars on the autograd graph, means over the images."""

    loss: Tensor
    terms: dict[str, Tensor]
    statistics: ClipStatistics


class ClipGuidance:
    """A frozen CLIP that pulls pictures towards a text. Made by `cosine`, `directional` or `text2live`.

    It has the two modes of `LatentDiffusionPrior`, over pictures [B, 3, H, W] in [0, 1]: called, it gives a loss on
    their graph; `gradient` gives that loss' gradient. Neither waits for the device. It is not an `nn.Module`, so that a
    host's state dict, optimiser and DDP do not see the frozen networks.

    Args:
        clip: the CLIP.
        objective: what is minimised.
        seed: of what is drawn; a step draws from (seed, step, stream) alone.

    Examples:
        >>> import torch
        >>> from ldp_fast import ClipGuidance
        >>> guidance = ClipGuidance.cosine("primitives", "a red cube", views=2)
        >>> images = torch.rand(1, 3, 64, 64, device=guidance.clip.device, requires_grad=True)
        >>> out = guidance(images, step=7)
        >>> out.loss.backward()
        >>> gradient, statistics = guidance.gradient(images, step=7)  # without a graph
        >>> torch.allclose(images.grad, gradient), sorted(statistics.read())
        (True, ['cosine', 'outside'])
    """

    def __init__(self, clip: Clip, objective: Objective, *, seed: int = 0):
        self.clip, self.objective, self.seed = clip, objective, _whole("seed", seed)

    @classmethod
    @torch.inference_mode(False)
    def cosine(
        cls,
        clip: Clip | str,
        text: str | Sequence[str],
        *,
        views: int = 8,
        crop: int | float | None = 154 / 168,
        kinds: Sequence[str] = augment.KINDS,
        blur: tuple[float, float] | None = augment.BLUR,
        premultiplied: bool = False,
        templates: Sequence[str] | str = "none",
        truncate: bool = False,
        seed: int = 0,
    ) -> ClipGuidance:
        """DreamFields (Jain et al. 2022): −cos(E(view), E(text)), mean over random crops of each image.

        Images [B, 4, H, W] have opacity as their last channel, and each view a random background: uniform noise, a
        checkerboard, or 1/f noise, blurred. Those of [B, 3, H, W] are cropped only.

        Args:
            clip: a CLIP, or the name of one (`Clip.load`), which then is loaded onto the GPU if there is one.
            text: one prompt for all images, or one for each.
            views: crops of each image.
            crop: their side, in pixels (int) or as a share of the shorter side (float); None takes whole images. The
                source renders 88, 168 or 252 pixels and takes 80, 154 or 224 of them.
            kinds, blur: of the backgrounds, see `augment.backgrounds`.
            premultiplied: whether colours are on black already and are not to be multiplied by opacity again. The
                source multiplies again (False).
            templates: name of a set (`templates.template_set`), or templates with `{}`; unit embeddings are averaged.
            truncate: cut texts that are too long for the text tower.
            seed: of the draws.

        Raises:
            UsageError: a text that is too long; a number, name or kind that is not known.
        """
        clip = _loaded(clip)
        if isinstance(crop, float) and not 0 < crop <= 1:
            raise UsageError(f"crop: expected a share above 0 and up to 1, or whole pixels; got {crop!r}")
        _whole("views", views, 1)
        augment.check_blur(blur)
        if isinstance(crop, int):
            _whole("crop", crop, 1)
        prompts = _prompts("text", [text] if isinstance(text, str) else text)
        averaged = [losses.unit(_embeddings(clip, prompt, templates, truncate)).mean(0) for prompt in prompts]
        objective = Cosine(losses.unit(torch.stack(averaged)), views, crop, tuple(kinds), blur, premultiplied)
        return cls(clip, objective, seed=seed)

    @classmethod
    @torch.inference_mode(False)
    def directional(
        cls,
        clip: Clip | str,
        source_text: str,
        text: str,
        *,
        templates: Sequence[str] | str = "imagenet",
        floor: float = losses.NADA_FLOOR,
        truncate: bool = False,
    ) -> ClipGuidance:
        """StyleGAN-NADA (Gal et al. 2022): 1 − cos(Ê(I) − Ê(I_source), mean over templates of Ê(y) − Ê(y_source)).

        Every Ê has unit length. Calls need `source=`, the pictures of the frozen generator. Nothing is drawn.

        Args:
            clip: as for `cosine`.
            source_text, text: what the source pictures show, and what they shall become; words for the templates, such
                as "photo" and "sketch".
            templates: as for `cosine`.
            floor: length below which a difference has no direction, see `losses.directional_distance`.
            truncate: as for `cosine`.

        Raises:
            UsageError: texts of the same embeddings, a text that is too long, a floor that is not above 0.
        """
        clip = _loaded(clip)
        if not 0 < floor < 1:
            raise UsageError(f"floor: expected a number above 0 and below 1; got {floor!r}")
        after, before = (losses.unit(_embeddings(clip, x, templates, truncate)) for x in (text, source_text))
        _require_difference(after, before, source_text)
        return cls(clip, Directional(losses.unit((after - before).mean(0, keepdim=True)), floor))

    @classmethod
    @torch.inference_mode(False)
    def text2live(
        cls,
        clip: Clip | str,
        source_text: str,
        text: str,
        screen_text: str | None = None,
        *,
        bootstrap_text: str | None = None,
        templates: Sequence[str] | str = "text2live",
        screen_templates: Sequence[str] | str = "text2live_screen",
        truncate: bool = False,
        seed: int = 0,
        **settings: Any,
    ) -> ClipGuidance:
        """Text2LIVE (Bar-Tal et al. 2022): composition, screen, structure, sparsity and bootstrap of an edit layer.

        Images are the edit layer, [B, 4, H, W]: its colours and its opacity α. Calls need `source=`, the pictures that
        it is laid over, and `step=`, by which the bootstrap term falls. Edited pictures [B, 3, H, W] serve where
        `screen`, `sparsity` and `bootstrap` are 0.

        Args:
            clip: as for `cosine`, with a vision transformer; for `bootstrap_text` one of transformers.
            source_text: of the source pictures.
            text: of the edited pictures.
            screen_text: of the edit layer alone; None is `text`.
            bootstrap_text: what to edit, in the source picture's words: α starts from CLIP's relevancy map of it. None
                leaves the term out (the source's default), unless a call brings `relevance=`.
            templates, screen_templates: as for `cosine`. They are not averaged: each step draws some of them.
            truncate: as for `cosine`.
            seed: of the draws.
            **settings: λ's and numbers that differ from `Text2LiveSettings`.

        Raises:
            UsageError: an unknown or impossible setting, texts that are the same, a text that is too long.
        """
        clip = _loaded(clip)
        known = [field.name for field in dataclasses.fields(Text2LiveSettings)]
        if unknown := sorted({*settings} - {*known}):
            raise UsageError(f"{unknown[0]}: expected one of {', '.join(known)}")
        chosen = Text2LiveSettings(**settings)
        after, before = (_embeddings(clip, x, templates, truncate) for x in (text, source_text))
        if chosen.composition > 0:
            _require_difference(after, before, source_text)
        objective = Text2Live(
            target=after,
            source=before,
            screen=_embeddings(clip, text if screen_text is None else screen_text, screen_templates, truncate),
            bootstrap=None if bootstrap_text is None else _embeddings(clip, bootstrap_text, "none", truncate),
            settings=chosen,
        )
        return cls(clip, objective, seed=seed)

    def __call__(
        self,
        images: Tensor,
        *,
        source: Tensor | None = None,
        relevance: Tensor | None = None,
        step: int = 0,
        stream: int = 0,
    ) -> ClipOutput:
        """Loss mode: scalars on the graph of `images`.

        An enclosing autocast changes nothing (leave it before `backward`, as PyTorch asks), and a GradScaler may scale
        the loss, whatever precision the CLIP has.

        Args:
            images: [B, 3, H, W] in [0, 1], or with opacity [B, 4, H, W] where the way takes it; all of one size.
            source: the pictures that are edited, [B, 3, H, W], without gradient; for `directional`, `text2live`.
            relevance: where an edit belongs, [B, 1, h, w] in [0, 1], such as a mask, in place of Text2LIVE's relevancy
                map.
            step: of the run, from 0.
            stream: tells several calls of one step apart, such as its views: each draws something else.

        Raises:
            UsageError: an argument of another shape or on another device, or one that this way does not take.
        """
        return self._evaluated(self._checked(images, source, relevance, step, stream))

    def gradient(
        self,
        images: Tensor,
        *,
        source: Tensor | None = None,
        relevance: Tensor | None = None,
        step: int = 0,
        stream: int = 0,
    ) -> tuple[Tensor, ClipStatistics]:
        """Gradient mode: dL/d images, for hosts that call `images.backward(gradient=g)`. Keeps no graph, is pure.

        Neither no_grad, nor inference mode, nor autocast around it changes anything.

        Args:
            images, source, relevance, step, stream: as `__call__`.

        Returns:
            g, float32 of the images' shape (float64 for float64 images), and the statistics.

        Raises:
            UsageError: as `__call__`.
        """
        call = self._checked(images, source, relevance, step, stream)
        device = self.clip.device.type
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
            leaf = _kept(call.images)
            assert leaf is not None
            out = self._evaluated(call._replace(images=leaf.requires_grad_()))
            if not out.terms:  # none is left at this step
                return torch.zeros_like(leaf), out.statistics
            (found,) = torch.autograd.grad(out.loss, leaf)
        return found, out.statistics

    def _evaluated(self, call: Call) -> ClipOutput:
        images, call = call.images, call._replace(source=_kept(call.source), relevance=_kept(call.relevance))
        with torch.autocast(self.clip.device.type, enabled=False):
            found = self.objective.terms(self.clip, call)
            means = {name: term.values.mean() for name, term in found.items()}
            nothing = images.new_zeros((), dtype=torch.float32)
            loss = sum((found[name].weight * mean for name, mean in means.items()), nothing)
        with torch.no_grad():
            outside = ((images < 0) | (images > 1)).flatten(1).float().mean(1)
        values = {name: term.values.detach() for name, term in found.items()}
        weights = {name: term.weight for name, term in found.items()}
        return ClipOutput(loss, means, ClipStatistics(values, weights, outside))

    def _checked(self, images: Tensor, source: Tensor | None, relevance: Tensor | None, step: int, stream: int) -> Call:
        channels = " or ".join(f"[B, {c}, H, W]" for c in self.objective.channels)
        if not isinstance(images, Tensor):
            several = " (images of several sizes take several calls)" if isinstance(images, list | tuple) else ""
            raise UsageError(f"images: expected one tensor {channels}, got a {type(images).__name__}{several}")
        right = images.ndim == 4 and images.shape[1] in self.objective.channels and images.is_floating_point()
        if not right or not images.numel():
            raise UsageError(f"images: expected floating-point {channels}, got {images.dtype} {list(images.shape)}")
        self._check_device("images", images)
        if self.objective.wants_source != (source is not None):
            wanted = "the pictures that are edited, [B, 3, H, W]" if source is None else "none for this way of guidance"
            raise UsageError(f"source: expected {wanted}, got {'none' if source is None else 'some'}")
        if source is not None:
            shape = [len(images), 3, *images.shape[-2:]]
            if list(source.shape) != shape or not source.is_floating_point():
                raise UsageError(
                    f"source: expected floating-point {shape}, as the images, got {source.dtype} {list(source.shape)}"
                )
            self._check_device("source", source)
        if relevance is not None:
            if not isinstance(self.objective, Text2Live):
                raise UsageError("relevance: expected none for this way of guidance, got some")
            if relevance.ndim != 4 or relevance.shape[:2] != (len(images), 1) or not relevance.is_floating_point():
                raise UsageError(
                    f"relevance: expected floating-point [{len(images)}, 1, h, w], got {relevance.dtype} "
                    f"{list(relevance.shape)}"
                )
            self._check_device("relevance", relevance)
        if isinstance(self.objective, Cosine) and len(self.objective.texts) not in (1, len(images)):
            raise UsageError(
                f"images: expected {len(self.objective.texts)}, as many as there are texts, got {len(images)}"
            )
        numbers = (self.seed, _whole("step", step), _whole("stream", stream))
        dtype = torch.promote_types(images.dtype, torch.float32)
        return Call(images.to(dtype), source, relevance, step, numbers)

    def _check_device(self, name: str, given: Tensor) -> None:
        if given.device != self.clip.device:
            raise UsageError(f"{name}: expected them on {self.clip.device}, where the CLIP is, got {given.device}")


def _kept(x: Tensor | None) -> Tensor | None:
    """The same off its graph; a copy of what inference mode has made, which no graph could keep."""
    return None if x is None else x.clone() if x.is_inference() else x.detach()


def _loaded(clip: Clip | str) -> Clip:
    return Clip.load(clip, "cuda" if torch.cuda.is_available() else "cpu") if isinstance(clip, str) else clip


def _prompts(name: str, prompts: Sequence[str]) -> list[str]:
    if not prompts or not all(isinstance(x, str) and x.strip() for x in prompts):
        raise UsageError(f"{name}: expected a prompt, or one for each image; got {shortened(repr(prompts))}")
    return list(prompts)


def _embeddings(clip: Clip, prompt: str, templates: Sequence[str] | str, truncate: bool) -> Tensor:
    """Of a prompt in each of the templates, not normalised, [n, E]."""
    (prompt,) = _prompts("text", [prompt])
    chosen = template_set(templates) if isinstance(templates, str) else templates
    if not chosen:
        raise UsageError("templates: expected at least one, got none")
    return clip.text_embeddings(filled(prompt, chosen), truncate=truncate)


def _require_difference(after: Tensor, before: Tensor, source_text: str) -> None:
    if torch.equal(after, before):
        raise UsageError(
            f"text: expected one that CLIP tells from source_text, {shortened(repr(source_text))}: no direction"
        )


def _whole(name: str, number: int, low: int = 0) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < low:
        raise UsageError(f"{name}: expected a whole number of at least {low}; got {number!r}")
    return number
