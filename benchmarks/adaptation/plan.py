"""The cells of the experiment, and what all of them have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shlex
from collections.abc import Sequence

import numpy as np
import torch

from ldp_fast.apps.adapt.configuration import GUIDANCES
from ldp_fast.errors import UsageError
from ldp_fast.generators.files import find
from ldp_fast.generators.sampling import latents
from ldp_fast.runs.names import name_of
from ldp_fast.zoo import captions, world

from ..terms.plan import digest

MODEL = GENERATOR = "primitives"
SOURCE = world.Scene("cube", "white")  # the embedded generator's solid; its colours are any
TARGETS = (
    "a red sphere",
    "a green cone",
    "a blue torus",
    "a yellow cylinder",
    "a red and white checkered cube",
    "a purple cube",
)
NAME = re.compile("[a-z0-9][a-z0-9.-]*")
SAMPLES, VIEWS, JUDGED = 500, 1024, 100
SEED = 60_000  # of the z's that are shown; far from those of training
OTHERS = 1  # added to it for the views that true ones are held against


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to adapt.

    Attributes:
        name: of it.
        words: what `ldp-fast adapt` is told beside prompt, seed and folder.
    """

    name: str
    words: tuple[str, ...]

    @classmethod
    def of(cls, said: str) -> Variant:
        """`NAME=WORDS`, as it is typed.

        Raises:
            UsageError: something else.
        """
        name, equals, words = said.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--variant: expected NAME=WORDS with a name of a-z, 0-9, . and -, got {said!r}")
        try:
            return cls(name, tuple(shlex.split(words)))
        except ValueError as error:
            raise UsageError(f"--variant: {said!r}: {error}") from None


def variants(names: Sequence[str], more: Sequence[str]) -> list[Variant]:
    """The guidances that are named, and what else is asked for.

    Raises:
        UsageError: one that is not known, or two of one name.
    """
    unknown = [name for name in names if name not in GUIDANCES]
    if unknown:
        raise UsageError(f"--variants: expected some of {', '.join(GUIDANCES)}, got {unknown[0]!r}")
    found = [Variant(name, ("--guidance", name)) for name in dict.fromkeys(names)] + [Variant.of(said) for said in more]
    twice = [one.name for i, one in enumerate(found) if one.name in [other.name for other in found[:i]]]
    if twice:
        raise UsageError(f"--variant: {twice[0]!r} is there twice")
    return found


@dataclasses.dataclass(frozen=True)
class Cell:
    """One adaptation.

    Attributes:
        target: its prompt.
        variant: how.
        seed: of its run.
    """

    target: str
    variant: Variant
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its folder and files."""
        return f"{name_of(self.target)}--{self.variant.name}--seed{self.seed}"


def cells(targets: Sequence[str], ways: Sequence[Variant], seeds: Sequence[int] = (0,)) -> list[Cell]:
    """All of them, in the order in which they are made: whole targets first, all of a seed before the next."""
    return [Cell(target, way, seed) for seed in seeds for target in targets for way in ways]


def scene_of(target: str) -> world.Scene:
    """What a target shows.

    Raises:
        UsageError: other words than those of the embedded world.
    """
    scene = captions.scene_of(target)
    if scene is None:
        raise UsageError(f"--targets: expected a caption of the embedded world, got {target!r}")
    return scene


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all cells have in common.

    Attributes:
        samples: pictures of each.
        views: other views of a target, which the true ones are held against.
        judged: of the samples, those that the truth judges one by one.
        seed: of the z's.
        generator: the source, by its name.
        weights: digest of its file.
        model: of the prior.
        networks: digest of its files.
    """

    samples: int
    views: int
    judged: int
    seed: int
    generator: str
    weights: str
    model: str
    networks: str

    @classmethod
    def of(cls, samples: int = SAMPLES, views: int = VIEWS, judged: int = JUDGED, seed: int = SEED) -> Plan:
        """The plan of the embedded generator and model.

        Raises:
            UsageError: a number out of range.
        """
        least = {"--samples": (samples, 2), "--views": (views, 20), "--judged": (judged, 0), "--sample-seed": (seed, 0)}
        for name, (value, low) in least.items():
            if value < low:
                raise UsageError(f"{name}: expected at least {low}, got {value}")
        file = hashlib.sha256(find(GENERATOR).read_bytes()).hexdigest()[:16]
        return cls(samples, views, min(judged, samples), seed, GENERATOR, file, MODEL, digest(MODEL))


@dataclasses.dataclass(frozen=True)
class Shown:
    """What is drawn, and from where.

    Attributes:
        z: of the samples, `[N, Z]`.
        views: of the source for these, N.
        others: views of other z's, V: what a view is held against, and what the target's domain is.
    """

    z: torch.Tensor
    views: tuple[world.View, ...]
    others: tuple[world.View, ...]

    @classmethod
    def of(cls, plan: Plan, z_dim: int) -> Shown:
        """Those of a plan, for a generator with so many numbers in a z."""
        z, more = latents(plan.seed, 0, plan.samples, z_dim), latents(plan.seed + OTHERS, 0, plan.views, z_dim)
        return cls(z, views_of(z), views_of(more))

    @property
    def greys(self) -> np.ndarray:
        """Behind the samples, `[N]`."""
        return np.array([view.background for view in self.views])


def views_of(z: torch.Tensor) -> tuple[world.View, ...]:
    """The cameras from which the embedded generator shows its solid."""
    from ldp_fast.zoo.generator import attributes

    return tuple(attributes(z).views())
