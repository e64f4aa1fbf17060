"""StyleGAN-NADA's direction in CLIP's space as what guides an adaptation."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from ldp_fast.apps.adapt import guides
from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.guides import DirectionalGuide, load_guide
from ldp_fast.clip import Clip
from ldp_fast.clip.guidance import ClipGuidance

from . import adapt_stub as stub
from .adapt_guides import DRAWS, close, guide_of, pictures


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load("primitives")


def test_the_direction_is_that_of_the_loss(clip: Clip) -> None:
    guide, x, sources = guide_of(guidance="clip-directional"), pictures(), pictures(seed=1)
    found, values = guide.gradient(x, sources, DRAWS, 0.0)
    leaf = x.clone().requires_grad_()
    straight = leaf + (leaf.clamp(-1, 1) - leaf).detach()
    out = ClipGuidance.directional(clip, "a cube", "a red sphere", templates="none")(
        straight / 2 + 0.5, source=sources.clamp(-1, 1) / 2 + 0.5
    )
    (3 * out.loss).backward()
    assert close(found, leaf.grad)
    assert tuple(values) == guide.columns
    torch.testing.assert_close(values["direction"].mean(), out.loss.detach())
    for i in range(3):
        alone, _ = guide.gradient(x[i : i + 1], sources[i : i + 1], Draws(3, 5, (i,)), 0.0)
        assert close(alone, found[i : i + 1])


def test_several_clips_are_added_up_with_their_weights(clip: Clip) -> None:
    judge, x, sources = Clip.load("primitives/judge"), pictures(), pictures(seed=1)
    texts = ("a cube", "a red sphere")
    first, second = (DirectionalGuide([(one, 1.0)], *texts).gradient(x, sources, DRAWS, 0.0) for one in (clip, judge))
    found, values = DirectionalGuide([(clip, 0.5), (judge, 2.0)], *texts).gradient(x, sources, DRAWS, 0.0)
    assert close(found, 0.5 * first[0] + 2 * second[0])
    torch.testing.assert_close(values["direction"], 0.5 * first[1]["direction"] + 2 * second[1]["direction"])


def test_no_templates_for_a_clip_that_does_not_know_their_words(clip: Clip) -> None:
    x, sources = pictures(), pictures(seed=1)
    texts = ("a cube", "a red sphere")
    unsaid, none, imagenet = (
        DirectionalGuide([(clip, 1.0)], *texts, templates=templates).gradient(x, sources, DRAWS, 0.0)[0]
        for templates in (None, "none", "imagenet")
    )
    assert torch.equal(unsaid, none) and not close(imagenet, none, 1e-2)


@pytest.mark.parametrize(
    ("made_on", "device", "dtype"),
    [("cuda", "cpu", torch.float32), ("cuda", "cuda:1", torch.float16), ("cpu", "cpu", torch.float16)],
)
def test_half_precision_of_a_gpu_is_full_on_a_cpu(
    made_on: str, device: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where the prior guides; who asks for it on a CPU has it."""
    asked = list[Any]()

    def load(what: str, name: str, where: str, dtype: torch.dtype) -> Clip:
        asked.append((where, dtype))
        return Clip.load("primitives")

    monkeypatch.setattr(guides, "load_named", load)
    given = stub.configuration(guidance="clip-directional", dtype="float16")
    load_guide(dataclasses.replace(given, device=made_on), device)
    assert asked == [(device, dtype)]
