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
NAME = re.compile("[a-z0-9][a-z0-9.@-]*")
SAMPLES, VIEWS, JUDGED = 500, 1024, 100
SEED = 60_000  # of the z's that are shown; far from those of training
OTHERS = 1  # added to it for the views that true ones are held against


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to adapt.

    Attributes:
        name: of it.
        words: what `ldp-fast adapt` is told beside prompt, seed and folder.
        setting: whether it is one of the other settings, whose cells are not compared with the guidances.
        targets: that are adapted to in this way; none: the experiment's.
    """

    name: str
    words: tuple[str, ...]
    setting: bool = False
    targets: tuple[str, ...] = ()

    @classmethod
    def of(cls, said: str, targets: Sequence[str] = ()) -> Variant:
        """Another setting, `NAME=WORDS`, as it is typed, and its targets.

        Raises:
            UsageError: something else.
        """
        name, equals, words = said.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UsageError(f"--variant: expected NAME=WORDS with a name of a-z, 0-9, ., @ and -, got {said!r}")
        for target in targets:
            scene_of(target, "--variant")
        try:
            return cls(name, tuple(shlex.split(words)), True, tuple(dict.fromkeys(targets)))
        except ValueError as error:
            raise UsageError(f"--variant: {said!r}: {error}") from None


def variants(names: Sequence[str], more: Sequence[Sequence[str]]) -> list[Variant]:
    """The guidances that are named, and other settings.

    Args:
        names: of guidances.
        more: of each other setting NAME=WORDS, and the targets behind it.

    Raises:
        UsageError: one that is not known, or two of one name.
    """
    unknown = [name for name in names if name not in GUIDANCES]
    if unknown:
        raise UsageError(f"--variants: expected some of {', '.join(GUIDANCES)}, got {unknown[0]!r}")
    found = [Variant(name, ("--guidance", name)) for name in dict.fromkeys(names)] + [
        Variant.of(said, targets) for said, *targets in more
    ]
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


def cells(
    targets: Sequence[str], ways: Sequence[Variant], seeds: Sequence[int] = (0,), repeated: Sequence[str] | None = None
) -> list[Cell]:
    """All of them, in the order in which they are made: whole targets first, all of a seed before the next.

    Args:
        targets: of the ways that do not have their own.
        ways: of adapting; other settings come after the guidances.
        seeds: of the runs.
        repeated: names of the ways that are made with every seed, the others with the first one alone; None: all.

    Raises:
        UsageError: a name that is not among the ways.
    """
    unknown = [name for name in repeated or () if name not in {way.name for way in ways}]
    if unknown:
        raise UsageError(f"--repeat: expected some of {', '.join(way.name for way in ways)}, got {unknown[0]!r}")
    found = []
    for seed in dict.fromkeys(seeds):
        mine = [way for way in ways if seed == seeds[0] or repeated is None or way.name in repeated]
        for kind in (False, True):
            alike = [way for way in mine if way.setting == kind]
            every = dict.fromkeys(target for way in alike for target in way.targets or targets)
            found += [Cell(x, way, seed) for x in every for way in alike if x in (way.targets or targets)]
    return found


def scene_of(target: str, argument: str = "--targets") -> world.Scene:
    """What a target shows.

    Raises:
        UsageError: other words than those of the embedded world.
    """
    scene = captions.scene_of(target)
    if scene is None:
        raise UsageError(f"{argument}: expected a caption of the embedded world, got {target!r}")
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
