"""CLIP score, N-way retrieval and the bootstrap against loops, scipy and torchmetrics."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ldp_fast.errors import UsageError
from ldp_fast.metrics import ClipScorer, bootstrap_interval, clip_cosines, clip_scores, n_way, r_precision

from ..support.clip import SIZE, save_clip


class Random:
    """Features by caption and by the red of an image's first pixel."""

    def __init__(self, size: int = 40, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.text, self.pictures = (F.normalize(torch.randn(size, 5, generator=generator), dim=1) for _ in "ab")

    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.pictures[images[:, 0, 0, 0].long()]

    def text_features(self, captions: list[str]) -> torch.Tensor:
        return self.text[[int(caption) for caption in captions]]


def numbered(count: int) -> torch.Tensor:
    return torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 2, 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 80), st.integers(0, 10**6))
def test_n_way_is_the_nearest_of_the_list(listed: int, count: int, seed: int) -> None:
    scorer, rng = Random(seed=seed), np.random.default_rng(seed)
    candidates = [str(i) for i in rng.permutation(40)[:listed]]
    captions = [candidates[i] for i in rng.integers(0, listed, count)]
    images = numbered(40)[rng.integers(0, 40, count)]
    found = n_way(scorer, images, captions, candidates)
    for image, caption, hit in zip(images, captions, found.tolist(), strict=True):
        seen = scorer.image_features(image[None])[0].double()
        cosines = [float(seen @ scorer.text[int(candidate)].double()) for candidate in candidates]
        assert hit == (candidates[int(np.argmax(cosines))] == caption)
    assert torch.equal(found, n_way(scorer, scorer.image_features(images), captions, candidates)), "features as images"


def test_a_tie_of_captions_that_the_tower_cannot_tell_apart() -> None:
    scorer = Random(8)
    scorer.text[3] = scorer.text[1]
    scorer.text[4] = F.normalize(scorer.text[2] + 1e-8, dim=0)  # what another batch rounds to
    scorer.pictures[1], scorer.pictures[2], scorer.pictures[5] = scorer.text[1], scorer.text[2], scorer.text[5]
    every, images = [str(i) for i in range(8)], numbered(8)[[1, 2, 5]]
    assert n_way(scorer, images, ["1", "2", "5"], every).tolist() == [False, False, True]
    assert r_precision(scorer, images, ["1", "2", "5"], every, distractors=7).tolist() == [False, False, True]
    assert n_way(scorer, images, ["1", "2", "5"], every, identity=lambda c: {"3": "1"}.get(c, c))[0]


def test_a_candidate_twice_is_one_candidate() -> None:
    scorer = Random(6)
    captions = [str(i) for i in range(6)]
    expected = n_way(scorer, numbered(6), captions, captions)
    assert torch.equal(n_way(scorer, numbered(6), captions, captions * 3), expected)
    assert n_way(scorer, numbered(0), [], captions).shape == (0,)


def test_what_n_way_refuses() -> None:
    scorer, images = Random(), numbered(1)
    with pytest.raises(UsageError, match="candidates: expected every caption among them, '9' is not one of the 2"):
        n_way(scorer, images, ["9"], ["1", "2"])
    with pytest.raises(UsageError, match="candidates: expected at least 2 different captions, got 1"):
        n_way(scorer, images, ["1"], ["1", "1"])
    with pytest.raises(ValueError, match="n_way: captions: expected 1, one an image, got 2"):
        n_way(scorer, images, ["1", "2"], ["1", "2"])


def test_the_bootstrap_is_scipys() -> None:
    rng = np.random.default_rng(3)
    hits = [list(rng.random(3) < rng.beta(2, 1)) for _ in range(60)]
    low, high = bootstrap_interval(hits, 7)  # type: ignore[misc]
    means = np.array([np.mean(views) for views in hits])
    other = scipy.stats.bootstrap((means,), np.mean, method="percentile", n_resamples=9999, rng=rng).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.01)
    assert low < means.mean() < high and (low, high) == bootstrap_interval(hits, 7)
    narrow = bootstrap_interval(hits, 7, level=0.5)
    assert narrow is not None and low < narrow[0] < narrow[1] < high


def test_views_of_an_object_stay_together() -> None:
    """Ten views of an object that agree say no more than one."""
    alone = bootstrap_interval([[i % 2] for i in range(20)], 1)
    assert bootstrap_interval([[i % 2] * 10 for i in range(20)], 1) == alone


def test_the_bootstrap_at_its_ends() -> None:
    assert bootstrap_interval([]) is None and bootstrap_interval([[True, False]]) is None
    assert bootstrap_interval([[True], [True, True]]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="got an object without one"):
        bootstrap_interval([[True], []])
    with pytest.raises(ValueError, match="level: expected between 0 and 1, got 95"):
        bootstrap_interval([[True], [False]], level=95)


def test_the_clip_score_is_torchmetrics(tmp_path: pathlib.Path) -> None:
    # Which takes a model that is not on the hub.
    pytest.importorskip("torchmetrics", minversion="1.8")
    from torchmetrics.multimodal import CLIPScore
    from transformers import CLIPModel, CLIPTokenizer

    from ..support.clip import processor

    folder = save_clip(tmp_path / "clip")
    pictures = torch.randint(0, 256, (6, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    captions = ["a", "b c", "x y z", "1 2", "hat", "q"]
    scorer = ClipScorer.from_pretrained(str(folder))
    cosines = clip_cosines(scorer, pictures / 255, captions)

    class Model(CLIPModel):
        """transformers 5 wraps features that torchmetrics takes plain."""

        def get_image_features(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            found = super().get_image_features(*args, **kwargs)
            return getattr(found, "pooler_output", found)

        def get_text_features(self, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            found = super().get_text_features(*args, **kwargs)
            return getattr(found, "pooler_output", found)

    def parts() -> tuple[object, object]:
        images, tokenizer = processor(), CLIPTokenizer.from_pretrained(folder)

        def both(text: list[str] | None = None, images: list[torch.Tensor] | None = None, **_: object) -> object:
            if images is None:
                return tokenizer(text, padding=True, return_tensors="pt")
            return process(images=images, return_tensors="pt")

        process = images
        return Model.from_pretrained(folder), both

    for i in range(6):
        metric = CLIPScore(parts)
        expected = metric(pictures[i : i + 1], captions[i : i + 1])
        assert float(clip_scores(cosines)[i]) == pytest.approx(float(expected), abs=1e-3)
    assert clip_scores(torch.tensor([-0.5, 0.25])).tolist() == [0, 25]
    one = clip_cosines(scorer, pictures / 255, ["a"])
    torch.testing.assert_close(one[0], cosines[0], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="clip_cosines: captions: expected 6, one an image, or 1, got 2"):
        clip_cosines(scorer, pictures / 255, ["a", "b"])
    with pytest.raises(UsageError, match="these words would be lost: 'dogs'"):
        clip_cosines(scorer, pictures / 255, ["cats and never dogs"])
    cut = ClipScorer.from_pretrained(str(folder), truncate=True)
    assert clip_cosines(cut, pictures / 255, ["cats and never dogs"]).isfinite().all()
