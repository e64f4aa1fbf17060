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

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ...errors import UsageError, shortened
from ...runs.settings import Wrong
from .configuration import ALL, Adaptation, class_of
from .defaults import resolve
from .experiment import AdaptExperiment
from .guides import load_guide

G = TypeVar("G", bound=nn.Module)


def adapt(
    generator: G, prompt: str, *, progress: Callable[[AdaptExperiment], None] | None = None, **settings: Any
) -> G:
    """Adapts a generator to a prompt, and returns the adapted one; yours stays as it is.

    Args:
        generator: a module with `z_dim`, `mapping(z)` and `synthesis(w)`; for a truncation other than 1 with
            `mapping(z, truncation)`, for noise="fresh" with `synthesis(w, noise=…)`, a `torch.Generator` a sample, and
            for select_layers with `styled()`. Parameters of a module `mapping` stay as they are.
        prompt: what it shall make.
        progress: is called after each step.
        settings: as config.yaml has them, such as `guidance`, `steps`, `model`, `device`, `settings={"lambda_fm": 0}`;
            `train` is ["all"] where it is not given.

    Raises:
        UsageError: what is not a generator, a setting that cannot be, a model that cannot be loaded.
        FloatingPointError: it diverged.
    """
    check_generator(generator)
    configuration = configured(prompt=prompt, **{"train": [ALL], "source_prompt": None, **settings})
    experiment = AdaptExperiment(configuration, load_guide(configuration), copy.deepcopy(generator))
    while experiment.step < experiment.total:
        experiment.advance()
        if progress is not None:
            progress(experiment)
    bad = experiment.not_finite()
    if bad:
        raise FloatingPointError(f"it diverged: {', '.join(bad)} not finite; lower learning_rate or the weights")
    found: G = experiment.pair.result().requires_grad_(False)
    return found


def configured(**settings: Any) -> Adaptation:
    """The configuration of settings, as config.yaml has them.

    Raises:
        UsageError: one that cannot be.
    """
    try:
        plain = resolve({}, settings)
        found: Adaptation = class_of(plain).from_plain(plain)
    except Wrong as error:
        raise UsageError(str(error)) from None
    return found


def check_generator(generator: Any) -> None:
    """Checks that an object is a generator, with one w.

    Raises:
        UsageError: it lacks something, or its pictures are of another shape.
    """
    lacking = [name for name in ("mapping", "synthesis", "z_dim") if not hasattr(generator, name)]
    if not isinstance(generator, nn.Module) or lacking:
        said = f"lacks {', '.join(lacking)}" if lacking else "is not a torch.nn.Module"
        raise UsageError(
            f"generator: expected a module with mapping(z), synthesis(w) and z_dim; {type(generator).__name__} {said}"
        )
    weight = next(generator.parameters(), None)
    if weight is None:
        raise UsageError(f"generator: {type(generator).__name__} does not have parameters to train")
    known: Any = generator
    with torch.no_grad():
        pictures = known.synthesis(known.mapping(torch.zeros(1, known.z_dim).to(weight)))
    shape = list(pictures.shape) if isinstance(pictures, torch.Tensor) else shortened(repr(pictures))
    if not isinstance(shape, list) or len(shape) != 4 or shape[:2] != [1, 3] or 0 in shape:
        raise UsageError(f"generator: expected pictures [1, 3, H, W] of one z, got {shape}")
