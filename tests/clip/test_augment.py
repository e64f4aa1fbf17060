"""DreamFields' views: crops against slices, backgrounds against their definitions, draws by (seed, step)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from ldp_fast import UsageError
from ldp_fast.clip import augment
from ldp_fast.clip.augment import dream_fields, step_generator
from ldp_fast.runs.seeds import mixed_generator


def drawn(*numbers: int) -> torch.Generator:
    return step_generator("cpu", *numbers)


@given(st.integers(5, 12), st.integers(0, 4), st.integers(1, 5), st.integers(3, 17), st.booleans())
def test_a_matrix_is_a_slice_resized(size: int, start: int, length: int, out: int, antialias: bool) -> None:
    start = min(start, size - length)
    rows = torch.rand(1, 2, size, 2, dtype=torch.float64)
    wanted = F.interpolate(
        rows[:, :, start : start + length].contiguous(), (out, 2), mode="bilinear", antialias=antialias
    )
    matrix = augment.resize_matrix(torch.tensor([start]), torch.tensor([length]), size, out, antialias=antialias)
    assert torch.allclose(matrix[0] @ rows, wanted, atol=1e-12)


def test_crops_are_slices_at_the_places_that_were_drawn() -> None:
    images = torch.rand(2, 3, 11, 14, dtype=torch.float64, requires_grad=True)
    crops = augment.random_crops(images, 8, 10, 3, drawn(0, 0))
    places, generator = [], drawn(0, 0)
    for side in (11, 14):
        places.append(torch.randint(side - 8, (6,), generator=generator).tolist())
    assert crops.shape == (6, 3, 10, 10) and crops.dtype == torch.float64
    wanted = [
        F.interpolate(images[i % 2, :, y : y + 8, x : x + 8][None], (10, 10), mode="bilinear")
        for i, (y, x) in enumerate(zip(*places, strict=True))
    ]
    assert torch.allclose(crops, torch.cat(wanted), atol=1e-12)
    towards = torch.randn_like(crops)
    found, expected = (torch.autograd.grad(x, images, towards)[0] for x in (crops, torch.cat(wanted)))
    assert torch.allclose(found, expected, atol=1e-12)


def test_a_crop_of_the_whole_is_the_whole() -> None:
    images = torch.rand(1, 3, 9, 9)
    assert torch.allclose(augment.random_crops(images, 9, 9, 2, drawn(1)), images.repeat(2, 1, 1, 1))
    resized = dream_fields(images, 6, None, 2, drawn(1))
    wanted = F.interpolate(images, (6, 6), mode="bilinear", antialias=True)
    assert torch.allclose(resized, wanted.repeat(2, 1, 1, 1), atol=1e-6)


def test_a_checkerboard_has_eight_by_eight_fields_of_two_colours() -> None:
    board = augment.checkerboard(2, 16, drawn(2))
    fields = board[:, :, ::2, ::2]
    assert torch.equal(board, fields.repeat_interleave(2, 2).repeat_interleave(2, 3))
    for y in range(8):
        for x in range(8):
            assert torch.equal(fields[:, :, y, x], fields[:, :, 0, (x + y) % 2])
    assert not torch.equal(fields[:, :, 0, 0], fields[:, :, 0, 1])
    assert augment.checkerboard(1, 13, drawn(2)).shape == (1, 3, 13, 13)


@pytest.mark.parametrize("size", [16, 15])
def test_pink_noise_is_its_definition(size: int) -> None:
    found = augment.pink_noise(2, size, drawn(3))
    parts = torch.randn(2, 2, 3, size, size // 2 + 1, generator=drawn(3)).double().numpy()
    flat = np.zeros((2, 3, size, size))
    for y in range(size):
        for x in range(size // 2 + 1):
            frequency = max(math.hypot(min(y, size - y) / size, x / size), 1 / size)
            scaled = np.zeros((2, 3, size, size // 2 + 1), complex)
            scaled[:, :, y, x] = (parts[0] + 1j * parts[1])[:, :, y, x] * 0.2 * size / frequency**1.5
            flat += np.fft.irfft2(scaled, s=(size, size)) / 4
    mixing = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]])
    mixing /= np.sqrt((mixing**2).sum(0)).max()
    wanted = 1 / (1 + np.exp(-np.einsum("rc,bchw->brhw", mixing, flat)))
    assert np.abs(found.numpy() - wanted).max() < 1e-5


def test_a_blur_is_a_gaussian_with_black_beyond_the_edge() -> None:
    images, deviations = torch.rand(3, 2, 20, 18), torch.tensor([0.0, 1.3, 8.0])
    blurred = augment.gaussian_blur(images, deviations)
    for image, sigma, found in zip(images, deviations.tolist(), blurred, strict=True):
        wanted = image.numpy()
        if sigma:
            weights = np.exp(-0.5 * (np.arange(-7, 8) / sigma) ** 2)
            for axis in (1, 2):
                wanted = scipy.ndimage.correlate1d(wanted, weights / weights.sum(), axis=axis, mode="constant")
        assert np.abs(found.numpy() - wanted).max() < 1e-5


def test_backgrounds_are_of_each_kind_equally_often() -> None:
    made = augment.backgrounds(300, 8, drawn(4), blur=None)
    values = made.flatten(2).sort(-1).values
    boards = (values[..., 0] == values[..., 31]).all(1)
    # A 1/f noise of this size is smooth, and noise is not.
    smooth = (made[..., 1:] - made[..., :-1]).abs().mean((1, 2, 3)) < 0.2
    for share in (boards, ~boards & smooth, ~boards & ~smooth):
        assert 70 < int(share.sum()) < 130
    assert ((made >= 0) & (made <= 1)).all()
    assert torch.equal(
        augment.backgrounds(2, 8, drawn(5), kinds=["checkerboard"], blur=None), augment.checkerboard(2, 8, drawn(5))
    )


def test_views_of_an_opaque_image_are_its_crops_and_of_a_transparent_one_the_background() -> None:
    colour = torch.rand(2, 3, 12, 12)
    opaque, transparent = (torch.cat([colour, torch.full((2, 1, 12, 12), x)], 1) for x in (1.0, 0.0))
    crops = dream_fields(colour, 16, 8, 4, drawn(6))
    assert torch.allclose(dream_fields(opaque, 16, 8, 4, drawn(6)), crops, atol=1e-6)
    empty = dream_fields(transparent, 16, 8, 4, drawn(6))
    assert torch.equal(empty, dream_fields(transparent.flip(0), 16, 8, 4, drawn(6)))
    half = torch.full((1, 1, 2, 2), 0.5)
    red, green = torch.tensor([0.5, 0, 0])[None, :, None, None], torch.tensor([0, 1.0, 0])[None, :, None, None]
    assert augment.over(red, half, green)[0, :, 0, 0].tolist() == [0.25, 0.5, 0.0]
    assert augment.over(red, half, green, premultiplied=True)[0, :, 0, 0].tolist() == [0.5, 0.5, 0.0]


def test_a_step_draws_the_same_again_and_another_step_does_not() -> None:
    images = torch.rand(1, 4, 12, 12)
    first, again, other = (dream_fields(images, 16, 8, 3, drawn(7, step)) for step in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, dream_fields(images, 16, 8, 3, drawn(8, 1)))
    assert len({tuple(view.flatten()[:5].tolist()) for view in first}) == 3


def test_other_numbers_are_another_stream() -> None:
    given = [(1, 2), (1, 2, 0), (0, 1, 2), (2**32 + 5, 0, 0), (5, 1, 0), (5, 0, 1), (5, 1, 0, 0), (0,), (), (2**70, 1)]
    assert len({drawn(*numbers).initial_seed() for numbers in given}) == len(given)
    assert drawn(5, 1).initial_seed() == drawn(5, 1).initial_seed()
    # Applications draw cameras from the same numbers.
    assert all(drawn(*numbers).initial_seed() != mixed_generator(*numbers).initial_seed() for numbers in given)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"images": torch.rand(3, 8, 8)}, "images"),
        ({"images": torch.rand(1, 5, 8, 8)}, "images"),
        ({"images": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "images"),
        ({"images": torch.rand(0, 3, 8, 8)}, "images"),
        ({"crop": 9}, "crop"),
        ({"views": 0}, "views"),
        ({"views": 2.5}, "views"),
        ({"images": torch.rand(1, 4, 8, 8), "blur": (5, 1)}, "blur"),
        ({"images": torch.rand(1, 4, 8, 8), "blur": (-3, 1)}, "blur"),
        ({"images": torch.rand(1, 4, 8, 8), "kinds": ["stripes"]}, "kinds"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], name: str) -> None:
    call: dict[str, object] = {"images": torch.rand(1, 3, 8, 8), "size": 8, "crop": 8, "views": 1}
    with pytest.raises(UsageError, match=f"^{name}: "):
        dream_fields(**{**call, **change}, generator=drawn(9))  # type: ignore[arg-type]
