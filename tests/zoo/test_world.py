"""The embedded model's world: distances, colours, views and captions are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldp_fast.zoo import world


@pytest.mark.parametrize("shape", world.SHAPES)
def test_signed_distance(shape: str) -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(-1.2, 1.2, (4000, 3))
    distance = world.signed_distance(shape, p)
    # 1-Lipschitz: a march by the distance can never step through the surface.
    q = p + rng.normal(0, 0.05, p.shape)
    change = np.abs(world.signed_distance(shape, q) - distance)
    assert (change <= np.linalg.norm(q - p, axis=1) + 1e-9).all()
    # The solid lies inside the unit ball (with the renderer's margin), and has an inside.
    assert np.linalg.norm(p[distance < 0], axis=1).max() < math.sqrt(1.15)
    assert (distance < 0).mean() > 0.02
    # Walking the distance along its gradient lands on the surface.
    outside = p[distance > 0.05]
    step = 1e-5
    gradient = np.stack(
        [
            (world.signed_distance(shape, outside + step * e) - world.signed_distance(shape, outside - step * e))
            / (2 * step)
            for e in np.eye(3)
        ],
        1,
    )
    landed = outside - world.signed_distance(shape, outside)[:, None] * gradient
    assert np.quantile(np.abs(world.signed_distance(shape, landed)), 0.99) < 1e-3


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("colour", ["red", "white"])
def test_colour_and_background(shape: str, colour: str) -> None:
    image, mask = world.render(world.Scene(shape, colour), world.View(0.4, 0.5, background=0.45), mask=True)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8 and mask.shape == (128, 128)
    assert 0.08 < mask.mean() < 0.6
    np.testing.assert_array_equal(image[mask == 0], round(0.45 * 255))
    inside = image[mask == 1] / 255
    # The hue is the colour's: lit and shaded pixels are multiples of it.
    expected = np.array(world.COLOURS[colour])
    shade = inside @ expected / (expected @ expected)
    assert 0.65 < shade.min() and shade.max() < 1.06
    np.testing.assert_allclose(inside, np.minimum(shade[:, None] * expected, 1), atol=0.06)


@pytest.mark.parametrize("pattern", ["striped", "checkered"])
@pytest.mark.parametrize("shape", world.SHAPES)
def test_patterns_show_both_colours(shape: str, pattern: str) -> None:
    scene = world.Scene(shape, "red", pattern, "blue")
    image, mask = world.render(scene, world.View(0.4, 0.45), mask=True)
    pixels = image[mask == 1].astype(int)
    red = (pixels[:, 0] > pixels[:, 2]).mean()
    assert 0.25 < red < 0.85
    if pattern == "striped":
        assert red > 0.45, "the first colour is the wider one"


def test_views_have_names_and_light_tells_front_from_back() -> None:
    names = [world.View(math.radians(a), 0.3).name() for a in (0, 44, 46, 134, 136, 180, 270, 320)]
    assert names == ["front", "front", "side", "side", "back", "back", "side", "front"]
    assert world.View(0.0, math.radians(70)).name() == "overhead"
    heights = [world.View(0.0, math.radians(e)).height() for e in (-5, 14.9, 15.1, 34.9, 35.1, 60, 70)]
    assert heights == ["low", "low", "raised", "raised", "high", "high", ""]
    low = world.View(math.radians(90), 0.1)
    true = ["a red cube", "a red cube, side view", "a red cube, low side view", "a photo of a red cube, low view"]
    assert all(low.agrees(caption) for caption in true)
    assert not any(low.agrees(f"a red cube, {view} view") for view in ("front", "low front", "high side", "overhead"))
    front, back = (world.render(world.Scene("sphere", "white"), world.View(a, 0.2)).mean() for a in (0.0, math.pi))
    assert front > back + 3


def test_scenes_and_captions_are_unique_and_known_words() -> None:
    captions = [scene.caption() for scene in world.all_scenes()]
    assert len(set(captions)) == len(captions) == 460
    held_out = [scene for scene in world.all_scenes() if scene.held_out()]
    assert 30 < len(held_out) < 60 and all(scene.pattern != "plain" for scene in held_out)
    rng = np.random.default_rng(0)
    assert not any(world.sample_scene(rng).held_out() for _ in range(200))
    assert all(world.sample_scene(rng, held_out=True).held_out() for _ in range(5))


def test_a_caption_of_training_is_true_of_its_view() -> None:
    rng, named = np.random.default_rng(3), 0
    for _ in range(300):
        view = world.sample_view(rng)
        caption = world.training_caption(rng, world.sample_scene(rng), view)
        assert view.agrees(caption)
        assert world.BACKGROUNDS[0] <= view.background <= world.BACKGROUNDS[1]
        named += any(f" {height} " in caption for height in world.HEIGHTS)
    assert 90 < named < 160


def test_rays_begin_at_the_camera_and_the_middle_ones_go_through_the_solid() -> None:
    view = world.View(2.0, math.radians(50), 3.0)
    origin, directions = world.rays(view, 5)
    assert directions.shape == (25, 3) and origin.dtype == directions.dtype == np.float32
    np.testing.assert_allclose(origin, world.camera_position(view), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(directions[12], -origin / 3, atol=1e-6)
    assert directions[2, 1] > directions[22, 1]  # from the top


def test_rendering_is_deterministic() -> None:
    view = world.sample_view(np.random.default_rng(7))
    scene = world.sample_scene(np.random.default_rng(7))
    assert np.array_equal(world.render(scene, view), world.render(scene, view))
