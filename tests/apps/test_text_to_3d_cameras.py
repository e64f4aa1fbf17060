"""Directions, the cameras of training, and the greys behind the object."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ldp_fast.apps.text_to_3d.cameras import CameraRanges, EncodedGreys, as_cameras, direction_of
from ldp_fast.apps.text_to_3d.trainer import view_generator

from . import text_to_3d_runs as runs

RANGES = CameraRanges(elevation=(-5.0, 55.0), radius=(3.3, 3.9), fov=(40.0, 50.0), overhead=0.25)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "name"),
    [
        (0.0, 0.0, "front"),
        (44.9, 0.0, "front"),
        (45.0, 0.0, "side"),
        (315.1, 0.0, "front"),
        (315.0, 0.0, "side"),
        (-44.9, 0.0, "front"),
        (359.9, 0.0, "front"),
        (720.0, 0.0, "front"),
        (90.0, 0.0, "side"),
        (134.9, 0.0, "side"),
        (135.0, 0.0, "back"),
        (180.0, 0.0, "back"),
        (225.0, 0.0, "back"),
        (225.1, 0.0, "side"),
        (-180.0, 0.0, "back"),
        (0.0, 60.0, "front"),
        (0.0, 60.1, "overhead"),
        (180.0, 90.0, "overhead"),
        (0.0, -30.0, "front"),
        (0.0, -30.1, "bottom"),
        (90.0, -90.0, "bottom"),
    ],
)
def test_direction_of(azimuth: float, elevation: float, name: str) -> None:
    assert direction_of(azimuth, elevation) == name


def test_a_model_may_have_words_for_heights() -> None:
    heights = {"low": 15.0, "high": 40.0}
    found = [direction_of(100.0, elevation, heights) for elevation in (-40.0, 0.0, 15.0, 15.1, 40.0, 41.0, 61.0)]
    assert found == ["bottom", "low side", "low side", "high side", "high side", "side", "overhead"]
    names = CameraRanges(elevation=(-5.0, 20.0), overhead=0.1).directions(heights)
    assert names == ("high front", "low front", "high side", "low side", "high back", "low back", "overhead")
    views = [RANGES.draw(view_generator(0, step, 0)) for step in range(300)]
    assert {direction_of(*view[:2], heights) for view in views} <= set(RANGES.directions(heights))


def test_directions() -> None:
    assert RANGES.directions() == ("front", "side", "back", "overhead")
    assert CameraRanges(elevation=(-5.0, 55.0)).directions() == ("front", "side", "back")
    assert CameraRanges(elevation=(-40.0, 61.0)).directions() == ("front", "side", "back", "overhead", "bottom")
    assert CameraRanges(azimuth=(-20.0, 20.0), elevation=(0.0, 0.0)).directions() == ("front",)
    assert CameraRanges(elevation=(-40.0, -35.0)).directions() == ("bottom",)


def test_views_are_within_their_ranges() -> None:
    views = [RANGES.draw(view_generator(0, step, 0)) for step in range(1500)]
    above = [elevation for _, elevation, _, _ in views if elevation > 55.0]
    assert len(above) / len(views) == pytest.approx(0.25, abs=0.04)
    assert 65.0 <= min(above) < 67.0 and 88.0 < max(above) <= 90.0
    others = [elevation for _, elevation, _, _ in views if elevation <= 55.0]
    columns = list(zip(*views, strict=True))
    for values, (low, high) in zip(
        (columns[0], others, columns[2], columns[3]),
        ((0.0, 360.0), (-5.0, 55.0), (3.3, 3.9), (40.0, 50.0)),
        strict=True,
    ):
        # All of the range, evenly, and nothing else.
        assert low <= min(values) < low + 0.02 * (high - low) and high - 0.02 * (high - low) < max(values) <= high
        assert sum(values) / len(values) == pytest.approx((low + high) / 2, abs=0.04 * (high - low))
    assert {direction_of(*view[:2]) for view in views} <= set(RANGES.directions())
    assert len(as_cameras(views[:3], torch.device("cpu"))) == 3


def test_a_view_is_drawn_from_seed_step_and_view_alone() -> None:
    def view(*numbers: int) -> tuple[float, ...]:
        return RANGES.draw(view_generator(*numbers))

    first = view(1, 2, 3)
    torch.manual_seed(5)
    assert view(1, 2, 3) == first
    assert len({first, view(0, 2, 3), view(1, 0, 3), view(1, 2, 0), view(2, 1, 3), view(1, 3, 2)}) == 6


def test_all_that_a_step_draws_is_repeated(small_model: str) -> None:
    trainer = runs.trainer(runs.configuration(small_model))
    a = trainer._draw(0)
    torch.manual_seed(5)
    other = runs.trainer(runs.configuration(small_model))._draw(0)
    assert (a.camera, a.direction, a.jitter) == (other.camera, other.direction, other.jitter)
    assert all(torch.equal(getattr(a, name), getattr(other, name)) for name in ("shade", "timestep", "noise"))
    b = trainer._draw(1)
    assert a.camera != b.camera and not torch.equal(a.noise, b.noise) and a.jitter != b.jitter


class Squares:
    """A prior whose VAE is not linear: a grey g becomes (g², g, 1, place), and each picture is counted."""

    device = torch.device("cpu")
    pixels_per_latent = 2

    def __init__(self) -> None:
        self.encoded: list[tuple[int, ...]] = []

    def encode(self, images: Tensor, *, sample: bool) -> Tensor:
        assert not sample
        self.encoded.append(tuple(images.shape))
        grey = images[:, :1, ::2, ::2]
        place = torch.arange(grey.shape[-1], dtype=torch.float32).expand_as(grey)
        return torch.cat([grey**2, grey, torch.ones_like(grey), place], dim=1)


def test_greys_are_encoded_once_and_interpolated() -> None:
    prior = Squares()
    greys = EncodedGreys(prior, 0.4, 0.6, levels=5)
    shades = torch.tensor([0.0, 0.25, 0.5, 0.6, 1.0])
    latents = greys(shades, 3)
    assert latents.shape == (5, 4, 3, 3)
    expected = 0.4 + 0.2 * shades
    torch.testing.assert_close(latents[:, 1, 0, 0], expected)
    # Squares are exact at the encoded greys, and on the chord between them (0.5 and 0.55).
    torch.testing.assert_close(latents[[0, 1, 2, 4], 0, 1, 1], expected[[0, 1, 2, 4]] ** 2)
    assert float(latents[3, 0, 0, 0]) == pytest.approx(0.6 * 0.5**2 + 0.4 * 0.55**2, rel=1e-5)
    # The borders stay as they were encoded.
    assert latents[3, 3].tolist() == [[0.0, 1.0, 2.0]] * 3
    assert prior.encoded == [(1, 3, 6, 6)] * 5
    greys(shades, 3)
    assert len(prior.encoded) == 5
    greys(shades[:1], 4)
    assert prior.encoded[5:] == [(1, 3, 8, 8)] * 5


def test_greys_lie_behind_the_object(small_model: str) -> None:
    background = {"kind": "greys", "low": 0.4, "high": 0.6}
    trainer = runs.trainer(runs.configuration(small_model, background=background, supersample=2))
    scene, drawn = trainer.scene.eval(), trainer._draw(0)
    cameras = as_cameras([drawn.camera], torch.device("cpu"))
    with torch.no_grad():
        picture, out = scene.training_view(cameras, 0, drawn.shade)
    assert scene.greys is not None and out.latents.shape[-1] == 16 and picture.shape == (1, 4, 8, 8)

    def pooled(x: Tensor) -> Tensor:
        return x.view(1, -1, 8, 2, 8, 2).mean((3, 5))

    expected = pooled(out.latents) + (1 - pooled(out.opacity)) * scene.greys(drawn.shade, 8)
    torch.testing.assert_close(picture, expected)
