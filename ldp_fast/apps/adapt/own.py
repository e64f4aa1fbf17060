"""A generator of your own, adapted from Python.

from ldp_fast.apps.adapt.own import adapt

class MyGenerator(torch.nn.Module):
    z_dim = 128
    def mapping(self, z): ...      # z [B, z_dim] → w, of any shape [B, …]
    def synthesis(self, w): ...    # w → pictures [B, 3, H, W], about [−1, 1]

adapted = adapt(MyGenerator(), "a red sphere", train=["all"], steps=200)
pictures = adapted.synthesis(adapted.mapping(torch.randn(4, 128)))
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from ...errors import UsageError, of_memory, reason, shortened
from ...runs.loop import LOG_EVERY
from ...runs.settings import Wrong
from .configuration import ALL, BY_Z, DIRECTIONAL, NONE, Adaptation, class_of
from .defaults import resolve, views_are_free
from .draws import NOISE, Draws
from .experiment import AdaptExperiment, trained_names
from .guides import PriorGuide, load_guide
from .idle import check_idle
from .trained import Pair, check_precision, trainable

# z's whose views are asked for beforehand.
PROBED = 256
G = TypeVar("G", bound=nn.Module)


def adapt(
    generator: G, prompt: str, *, progress: Callable[[AdaptExperiment], None] | None = None, **settings: Any
) -> G:
    """Adapts a generator to a prompt, and returns the adapted one; yours stays as it is.

    Args:
        generator: a module with `z_dim`, `mapping(z)` and `synthesis(w)`; for a truncation other than 1 with
            `mapping(z, truncation)`, for noise="fresh" with `synthesis(w, noise=…)`, a `torch.Generator` a sample, and
            for select_layers with `styled()`. Parameters of a module `mapping` stay as they are. What a method
            `view_words(z)` says of z's, B texts such as "low side", is put behind the prompt, as in ", low side view",
            unless guidance is clip-directional, the prompt names a view, or view_prompts="none" is given.
        prompt: what it shall make.
        progress: is called after each step.
        settings: as config.yaml has them, such as `guidance`, `steps`, `model`, `device`, `settings={"lambda_fm": 0}`;
            `train` is ["all"] where it is not given.

    Raises:
        UsageError: what is not a generator, a setting that cannot be, a model that cannot be loaded.
        FloatingPointError: it diverged.
    """
    check_module(generator)
    configuration = configured(prompt=prompt, **{**_unsaid(generator, {"prompt": prompt, **settings}), **settings})
    check_generator(generator, configuration)
    source: Any = copied_whole(generator)
    guide, views = load_guide(configuration), None
    if getattr(configuration, "view_prompts", NONE) == BY_Z:
        views = _view_words(source)
        if isinstance(guide, PriorGuide):
            said = views(Draws(0, 0, tuple(range(PROBED))).latents(source.z_dim))
            try:
                # What the model does not know of them is said before the first step.
                guide.know_views(said)
            except UsageError as error:
                raise UsageError(f"generator: words of view_words(z) that the model does not take: {error}") from None
    experiment = AdaptExperiment(configuration, guide, source, view_words=views)
    while experiment.step < experiment.total:
        experiment.advance()
        if experiment.step % LOG_EVERY == 0 or experiment.step == experiment.total:
            _check_finite(experiment)
        if progress is not None:
            progress(experiment)
    found: G = experiment.pair.result().requires_grad_(False)
    return found


def _unsaid(generator: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"train": [ALL], "source_prompt": None}
    if settings.get("guidance") != DIRECTIONAL:
        # Its own words are meant for the model that it is given.
        knows = getattr(generator, "view_words", None) is not None and views_are_free(settings)
        found["view_prompts"] = BY_Z if knows else NONE
    return found


def _view_words(generator: Any) -> Callable[[torch.Tensor], Sequence[str]]:
    """What a generator says of its views, checked."""
    if not callable(getattr(generator, "view_words", None)):
        raise UsageError(
            f"view_prompts: expected {NONE}, or a generator with view_words(z); {type(generator).__name__} lacks it"
        )

    def checked(z: torch.Tensor) -> Sequence[str]:
        with _asking("view_words(z)", f"{len(z)} z"), torch.no_grad():
            found = generator.view_words(z.to(next(generator.parameters()).device))
        if not isinstance(found, (list, tuple)) or len(found) != len(z) or not all(isinstance(x, str) for x in found):
            raise UsageError(f"generator: expected {len(z)} texts of view_words(z), got {shortened(repr(found))}")
        for words in found:
            # What stands before and behind it is put there by whoever makes the prompt.
            if not words.strip() or words != words.strip(" ,.") or words.lower().endswith("view"):
                raise UsageError(
                    f"generator: expected words such as 'low side' of view_words(z), without 'view', got {words!r}"
                )
        return found

    return checked


def _check_finite(experiment: AdaptExperiment) -> None:
    bad = experiment.not_finite()
    if bad:
        raise FloatingPointError(
            f"it diverged: {', '.join(bad)} not finite, before step {experiment.step}; lower learning_rate or the "
            f"weights"
        )


def configured(**settings: Any) -> Adaptation:
    """The configuration of settings, as config.yaml has them.

    Raises:
        UsageError: one that cannot be.
    """
    try:
        plain = resolve({}, settings)
        found: Adaptation = class_of(plain).from_plain(plain)
        check_idle(settings, found)
    except Wrong as error:
        raise UsageError(str(error)) from None
    return found


def check_module(generator: Any) -> None:
    """Checks that an object has what a generator has; calls nothing of it.

    Raises:
        UsageError: it lacks something.
    """
    kind = type(generator).__name__
    lacking = [name for name in ("mapping", "synthesis", "z_dim") if getattr(generator, name, None) is None]
    if not isinstance(generator, nn.Module) or lacking:
        said = f"lacks {', '.join(lacking)}" if lacking else "is not a torch.nn.Module"
        raise UsageError(f"generator: expected a module with mapping(z), synthesis(w) and z_dim; {kind} {said}")
    for name in ("mapping", "synthesis"):
        if not callable(getattr(generator, name)):
            got = shortened(repr(getattr(generator, name)))
            raise UsageError(f"generator: expected a function {name} of {kind}, got {got}")
    size = generator.z_dim
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UsageError(f"generator: expected z_dim of {kind} to be a whole number of at least 1, got {size!r}")
    if next(generator.parameters(), None) is None:
        raise UsageError(f"generator: {kind} does not have parameters to train")


def check_generator(generator: Any, configuration: Adaptation | None = None) -> None:
    """Checks that an object is a generator whose pictures can be trained, with one z and with two, on a copy of it.

    Args:
        generator: stays as it is, what it counts or averages while it computes included; so do torch's random numbers.
        configuration: of the run, which says what is trained, and how w and pictures are made; None: all is.

    Raises:
        UsageError: it lacks something, fails, or its pictures are of another shape or do not depend on what is trained.
    """
    check_module(generator)
    where = next(generator.parameters()).device
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        _check_on_a_copy(copied_whole(generator), configuration)


def _check_on_a_copy(probe: Any, c: Adaptation | None) -> None:
    names = list(trainable(probe)) if c is None else trained_names(c, probe)
    check_precision(probe, names)
    pair = Pair(probe, names)
    fresh, truncation = c is not None and c.noise == "fresh", 1.0 if c is None else c.truncation
    for count, said in ((1, "one z"), (2, "two z")):
        draws = Draws(0, 0, tuple(range(count)))
        with _asking("mapping(z)" if truncation == 1 else f"mapping(z, {truncation:g})", said):
            w = pair.w(draws.latents(probe.z_dim), truncation)
        if w is None:
            raise UsageError(f"generator: expected w of mapping(z), got {w}")
        with _asking("synthesis(w, noise=…)" if fresh else "synthesis(w)", f"the w of {said}"):
            more = {"noise": draws.generators(NOISE)} if fresh else {}
            pictures = pair.adapted.synthesis(w, **more)
        _check_pictures(pictures, count, said)
    with _asking("the gradient of synthesis(w)", "two z"):
        gradients = _gradients(pictures, list(pair.parameters.values()))
    if all(gradient is None for gradient in gradients):
        raise UsageError(
            "generator: expected pictures of synthesis(w) with a gradient by what is trained; these have none: they do "
            "not depend on it, or are made under torch.no_grad() or detached"
        )
    # With a moving average the result is a copy of what has been trained.
    copied_whole(pair.adapted)


def _gradients(pictures: torch.Tensor, parameters: list[nn.Parameter]) -> Sequence[torch.Tensor | None]:
    if not pictures.requires_grad:
        return [None]
    return torch.autograd.grad(pictures.sum(), parameters, allow_unused=True)


def _check_pictures(pictures: Any, count: int, said: str) -> None:
    is_one = isinstance(pictures, torch.Tensor)
    shape = list(pictures.shape) if is_one else shortened(repr(pictures))
    if not is_one or len(shape) != 4 or shape[:2] != [count, 3] or 0 in shape:
        raise UsageError(f"generator: expected pictures [{count}, 3, H, W] of {said}, got {shape}")
    if not pictures.is_floating_point():
        raise UsageError(f"generator: expected pictures of real numbers, about [-1, 1], got {pictures.dtype}")
    if not bool(pictures.detach().isfinite().all()):
        raise UsageError(f"generator: expected pictures about [-1, 1]; those of {said} have NaN or infinity")


@contextlib.contextmanager
def _asking(call: str, of: str) -> Iterator[None]:
    """Says which call of the generator's has failed."""
    try:
        yield
    except Exception as error:  # of somebody else's code it may be any
        if of_memory(error):
            raise
        raise UsageError(f"generator: {call} of {of} failed with {type(error).__name__}: {reason(error)}") from error


def copied_whole(generator: G) -> G:
    """A copy of a generator.

    Raises:
        UsageError: it cannot be copied.
    """
    try:
        return copy.deepcopy(generator)
    except Exception as error:  # of somebody else's code it may be any
        if of_memory(error):
            raise
        raise UsageError(
            f"generator: expected a module that copy.deepcopy can copy, before and after it makes pictures; "
            f"{type(generator).__name__}: {reason(error)}"
        ) from error
