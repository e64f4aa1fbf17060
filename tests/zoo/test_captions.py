"""Captions of the embedded model's world: what they show, and random ones."""

from __future__ import annotations

import numpy as np
import pytest

from ldp_fast.errors import UsageError
from ldp_fast.zoo import world
from ldp_fast.zoo.captions import identity, random_prompts, scene_of


def test_every_canonical_caption_gives_its_scene_back() -> None:
    scenes = world.all_scenes()
    assert [scene_of(scene.caption()) for scene in scenes] == scenes
    assert len({identity(scene.caption()) for scene in scenes}) == 460


def test_every_variant_that_training_uses_shows_the_same_scene() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        scene = world.sample_scene(rng, held_out=None)
        caption = world.training_caption(rng, scene, world.sample_view(rng))
        assert scene_of(caption) == scene, caption


def test_captions_that_show_the_same_have_one_identity() -> None:
    assert identity("a blue and red checkered cube") == identity("a photo of a red and blue checkered cube, side view")
    assert identity("a red cube with red stripes") == identity("a red cube")
    assert identity("a red cube with blue stripes") != identity("a blue cube with red stripes")
    assert identity("A  hamburger") == identity("a hamburger") != identity("a fish")
    assert scene_of("a hamburger") is None and scene_of("a red cube and a blue cone") is None


def test_random_prompts_are_different_and_the_first_do_not_depend_on_the_count() -> None:
    many = random_prompts(417, 3)
    assert len(set(many)) == 417 and many[:10] == random_prompts(10, 3) != random_prompts(10, 4)
    with pytest.raises(UsageError, match=r"--random-prompts: expected 1 to 417 .*, got 418"):
        random_prompts(418, 0)
