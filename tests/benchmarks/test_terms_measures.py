"""Pictures against the nearest true render: each defect moves its own measure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.terms import measures, nearest
from ldp_fast.metrics import ClipScorer
from ldp_fast.zoo import captions, world

from .few_views import few_views

CAPTION = "a red cube with blue stripes"
VIEW = world.View(math.radians(40), math.radians(20), world.CAMERA_RADIUS, 0.4)


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    with few_views(AZIMUTHS=12, ELEVATIONS=(0, 25, 50, 75), DISTANCES=(1.0,)):
        yield


def rendered(caption: str = CAPTION, view: world.View = VIEW) -> np.ndarray:
    scene = captions.scene_of(caption)
    assert scene is not None
    return world.render(scene, view) / 255.0


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return rendered()


def measured(picture: np.ndarray) -> dict[str, Any]:
    return measures.measure(picture, CAPTION)[0]


def test_the_nearest_render_is_found_where_it_was_made() -> None:
    view = world.View(math.radians(100), math.radians(33), 1.06 * world.CAMERA_RADIUS, 0.52)
    scene = captions.scene_of("a yellow and purple checkered torus")
    assert scene is not None
    found = nearest.find(rendered(scene.caption(), view), scene, evaluations=80)
    assert math.degrees(found.view.elevation) == pytest.approx(33, abs=2)
    assert found.view.radius == pytest.approx(view.radius, rel=0.02)
    assert found.view.background == pytest.approx(0.52, abs=0.01)
    assert found.difference < 0.05 < nearest.find(rendered(scene.caption(), view), scene, evaluations=0).difference
    with pytest.raises(
        ValueError, match=r"find: picture: expected \[H, H, 3\], H a multiple of 32, got \[128, 96, 3\]"
    ):
        nearest.find(np.zeros((128, 96, 3)), scene)


def test_a_shifted_solid_is_found_with_its_shift() -> None:
    scene = captions.scene_of("a green cone")
    assert scene is not None
    seen = nearest.Placed(VIEW, (0.12, -0.08)).seen(scene, 128)
    found = nearest.find(seen.picture(scene, 0.4).reshape(128, 128, 3), scene, evaluations=120)
    assert found.shift == pytest.approx((0.12, -0.08), abs=0.03)


def test_a_true_render_is_right(picture: np.ndarray) -> None:
    found = measured(picture)
    assert found["right"] and not found["failing"]
    assert found["iou"] > 0.93 and found["stray"] < 0.03 and found["ground"] < 0.5
    assert found["laplacian"] == pytest.approx(1, abs=0.3)
    assert [part["name"] for part in found["parts"]] == ["red", "blue"]


def purple_for_red(picture: np.ndarray) -> np.ndarray:
    red = (picture[..., 0] > picture[..., 1] + 0.2) & (picture[..., 0] > picture[..., 2] + 0.2)
    return np.where(red[..., None], (0.55, 0.15, 0.70), picture)


def another_body(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[4:22, 4:22] = (0.12, 0.62, 0.18)
    return changed


def fog(picture: np.ndarray) -> np.ndarray:
    grey = np.abs(picture - 0.4).max(axis=-1) < 0.02
    tint = 0.15 * np.sin(np.arange(128) / 12)[:, None, None] * np.array([0.3, 0.6, 1.0])
    return np.where(grey[..., None], picture + tint, picture)


def green_cap(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    part = changed[70:92, 45:85]
    part[np.abs(part - 0.4).max(axis=-1) > 0.1] = (0.12, 0.62, 0.18)
    return changed


def bitten(picture: np.ndarray) -> np.ndarray:
    changed = picture.copy()
    changed[:, 72:] = 0.4
    return changed


@pytest.mark.parametrize(
    ("change", "fails", "costs"),
    [
        # All in one colour that nobody asked for, it looks more like a cube from above.
        (purple_for_red, {"colours"}, {"shape"}),
        (another_body, {"bodies"}, set()),
        (fog, {"ground"}, set()),
        # A fifth of the surface changes the mean of its part.
        (green_cap, {"stray"}, {"colours"}),
        # Where the solid is missing, grey is seen.
        (bitten, {"shape"}, {"stray"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_defect_fails_by_its_own_measure(
    picture: np.ndarray, change: Callable[[np.ndarray], np.ndarray], fails: set[str], costs: set[str]
) -> None:
    found = measured(change(picture))
    assert not found["right"] and fails <= set(found["failing"]) <= fails | costs


def test_blur_and_specks_move_the_laplacian_in_two_directions(picture: np.ndarray) -> None:
    blurred = ndimage.gaussian_filter(picture, (2, 2, 0))
    specks = (picture + 0.1 * np.random.default_rng(0).normal(size=picture.shape)).clip(0, 1)
    assert measured(blurred)["laplacian_half"] < 0.6 < 1.5 < measured(specks)["laplacian_half"]


def test_a_colour_that_the_render_hides_is_not_asked_for() -> None:
    """From straight above, a striped cube is all of its second colour."""
    found, _ = measures.measure(rendered(view=world.View(0.0, math.radians(90), background=0.4)), CAPTION)
    assert found["right"] and found["hidden"] == 1


def test_the_perceptual_distance_grows_with_what_is_wrong(picture: np.ndarray) -> None:
    perception = measures.Perception(ClipScorer.from_pretrained("primitives"))
    other = rendered("a green sphere")
    stack = torch.from_numpy(np.stack([picture, green_cap(picture), other])).permute(0, 3, 1, 2).float()
    same, little, much = perception.distance(stack, stack[:1].expand(3, -1, -1, -1)).tolist()
    assert same == 0 and 0.001 < little < much < 2
    rows = measures.measure_all(stack[:1], [CAPTION], perception)
    assert rows[0]["perceptual"] < 0.03 and abs(rows[0]["saturation"] - rows[0]["saturation_true"]) < 0.02


def test_other_words_are_refused(picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match="measure: caption: expected one of the embedded world, got 'an owl'"):
        measures.measure(picture, "an owl")
