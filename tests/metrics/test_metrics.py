"""Retrieval and colour against hand-made cases."""

from __future__ import annotations

import colorsys

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.metrics import ClipScorer, clipped_fraction, r_precision, saturation


class Lookup:
    """A scorer whose features are given: image i and caption "i" point along axis i."""

    def __init__(self, size: int, wrong: tuple[int, ...] = ()):
        self.eye, self.wrong = torch.eye(size), wrong

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        rows = images[:, 0, 0, 0].long()
        return torch.stack([self.eye[(i + 1) % len(self.eye)] if int(i) in self.wrong else self.eye[i] for i in rows])

    def text_features(self, captions: list[str]) -> torch.Tensor:
        return torch.stack([self.eye[int(c)] for c in captions])


def numbered(count: int) -> tuple[torch.Tensor, list[str]]:
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2), [str(i) for i in range(count)]


def test_r_precision_counts_the_right_ones() -> None:
    images, captions = numbered(8)
    pool = captions
    assert r_precision(Lookup(8), images, captions, pool, distractors=7).all()
    right = r_precision(Lookup(8, wrong=(2, 5)), images, captions, pool, distractors=7)
    assert right.tolist() == [i not in (2, 5) for i in range(8)]


def test_a_tie_is_wrong_and_distractors_never_hold_the_caption() -> None:
    images, captions = numbered(4)

    class Same(Lookup):
        def image_features(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 4) / 2

    assert not r_precision(Same(4), images, captions, captions, distractors=3).any()
    with pytest.raises(ValueError, match="expected more than 99 different captions, got 4"):
        r_precision(Same(4), images, captions, captions * 50)


def test_saturation_is_hsv() -> None:
    pixel = torch.rand(5, 3, 1, 1)
    expected = [colorsys.rgb_to_hsv(*p.flatten().tolist())[1] for p in pixel]
    torch.testing.assert_close(saturation(pixel), torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert float(saturation(torch.zeros(1, 3, 4, 4))) == 0


def test_clipped_fraction() -> None:
    image = torch.full((1, 3, 2, 2), 0.5)
    image[0, 0] = 1.0
    image[0, 1, 0, 0] = 0.0
    assert float(clipped_fraction(image)) == pytest.approx(5 / 12)


def test_a_missing_clip_is_one_line() -> None:
    with pytest.raises(UsageError, match="clip: could not load") as raised:
        ClipScorer.from_pretrained("/nowhere/clip")
    assert "\n" not in str(raised.value)


def test_captions_that_show_the_same_are_no_distractors() -> None:
    images, captions = numbered(4)

    class Loud(Lookup):
        """Captions are numbers, and a sign in front says nothing."""

        def text_features(self, captions: list[str]) -> torch.Tensor:
            return torch.stack([self.eye[abs(int(c))] for c in captions])

    pool = [*captions, *("-" + c for c in captions)]
    assert not r_precision(Loud(4), images, captions, pool, distractors=7).any(), "the twin ties with the caption"
    alone = r_precision(Loud(4), images, captions, pool, distractors=3, identity=lambda c: abs(int(c)))
    assert alone.all()
    with pytest.raises(ValueError, match="more than 4 different captions, got 4"):
        r_precision(Loud(4), images, captions, pool, distractors=4, identity=lambda c: abs(int(c)))


def test_with_a_seed_an_image_its_draw_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    text, pool = torch.nn.functional.normalize(torch.randn(60, 4), dim=1), [str(i) for i in range(60)]

    class Random(Lookup):
        def image_features(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(text[images[:, 0, 0, 0].long()] + 0.4, dim=1)

        def text_features(self, captions: list[str]) -> torch.Tensor:
            return text[[int(c) for c in captions]]

    images, captions = numbered(40)
    seeds = list(range(100, 140))
    together = r_precision(Random(1), images, captions, pool, distractors=5, seed=seeds)
    backwards = r_precision(Random(1), images.flip(0), captions[::-1], pool, distractors=5, seed=seeds[::-1])
    assert torch.equal(together, backwards.flip(0))
    assert 0 < together.sum() < 40
    with pytest.raises(ValueError, match="seed: expected one number or 40 of them, got 2"):
        r_precision(Random(1), images, captions, pool, distractors=5, seed=[1, 2])
    with pytest.raises(ValueError, match="captions: expected 40, one an image, got 1"):
        r_precision(Random(1), images, ["0"], pool, distractors=5)
