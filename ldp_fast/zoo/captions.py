"""Prompts of the embedded model's world: which scene a caption asks for, and prompts drawn at random.

`python -m ldp_fast.zoo.captions` prints a random one.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Hashable

import numpy as np

from ..errors import UsageError
from . import world

_COLOUR, _SHAPE = "|".join(world.COLOURS), "|".join(world.SHAPES)
_PREFIX = re.compile(r"^(?:an? )?(?:photo|picture|render) of ")
_VIEW = re.compile(rf"[ ,]+(?:(?:{'|'.join(world.HEIGHTS)}) )?(?:{'|'.join(world.VIEWS)}) view$")
_FORMS = (
    ("plain", re.compile(rf"(?:an? )?({_COLOUR}) ({_SHAPE})")),
    ("striped", re.compile(rf"(?:an? )?({_COLOUR}) ({_SHAPE}) with ({_COLOUR}) stripes")),
    ("checkered", re.compile(rf"(?:an? )?({_COLOUR}) and ({_COLOUR}) checkered ({_SHAPE})")),
)


def scene_of(caption: str) -> world.Scene | None:
    """The scene that a caption of this world shows; None for other words.

    Articles, `a photo of` and the view's name show nothing else, checkers are the same in either order of the colours,
    and stripes or checkers in the solid's own colour are not visible.
    """
    text = " ".join(caption.lower().rstrip(" .").split())
    text = _VIEW.sub("", _PREFIX.sub("", text))
    for pattern, form in _FORMS:
        found = form.fullmatch(text)
        if found is None:
            continue
        if pattern == "plain":
            return world.Scene(found[2], found[1])
        first, shape, second = (found[1], found[3], found[2]) if pattern == "checkered" else found.groups()
        if first == second:
            return world.Scene(shape, first)
        if pattern == "checkered":
            first, second = sorted((first, second), key=list(world.COLOURS).index)
        return world.Scene(shape, first, pattern, second)
    return None


def identity(caption: str) -> Hashable:
    """What a caption shows: its scene; of other captions their words. Equal for captions that show the same."""
    return scene_of(caption) or " ".join(caption.lower().split())


def random_prompts(count: int, seed: int) -> list[str]:
    """`count` different captions of scenes that training saw; the first of them do not depend on the count.

    Raises:
        UsageError: more than there are, or a seed below 0.
    """
    if seed < 0:
        raise UsageError(f"--prompt-seed: expected a whole number of at least 0, got {seed}")
    available = count_of(held_out=False)
    if not 1 <= count <= available:
        raise UsageError(f"--random-prompts: expected 1 to {available} (the captions that training saw), got {count}")
    return draw(count, seed, held_out=False)


def count_of(*, held_out: bool) -> int:
    """How many captions there are that training saw, or did not see."""
    return sum(scene.held_out() == held_out for scene in world.all_scenes())


def draw(count: int, seed: int, *, held_out: bool) -> list[str]:
    """As `random_prompts`, for a count of `count_of` at most: captions that training saw, or did not see."""
    rng, found = np.random.default_rng(seed), dict[str, None]()
    while len(found) < count:
        found[world.sample_scene(rng, held_out=held_out).caption()] = None
    return list(found)


if __name__ == "__main__":
    argparse.ArgumentParser(
        prog="python -m ldp_fast.zoo.captions", description="Prints a random caption of the embedded world."
    ).parse_args()
    print(random_prompts(1, seed=int(np.random.SeedSequence().generate_state(1)[0]))[0])
