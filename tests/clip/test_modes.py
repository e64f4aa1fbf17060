"""What lies around a call does not change it: inference mode, autocast, a scaled loss over float16 towers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import ClipGuidance
from ldp_fast.clip import Clip, augment, losses
from ldp_fast.clip.relevancy import relevancy_map
from ldp_fast.clip.scaling import GradientScale

Case = tuple[ClipGuidance, Tensor, dict[str, Any]]


@pytest.fixture(scope="module")
def half() -> Clip:
    return Clip.load("primitives", dtype=torch.float16)


def pictures(seed: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, 128, 128, generator=torch.Generator().manual_seed(seed))


def case(way: str, clip: Clip | None = None) -> Case:
    clip, before = clip or Clip.load("primitives"), pictures(1)
    if way == "cosine":
        return ClipGuidance.cosine(clip, "a red cube", views=1), pictures(0, 4), {}
    if way == "directional":
        return ClipGuidance.directional(clip, "cube", "red cube", templates="none"), before, {"source": before}
    guidance = ClipGuidance.text2live(clip, "a cube", "a ball", bootstrap_text="a cube", views=1)
    return guidance, pictures(0, 4), {"source": before}


WAYS = pytest.mark.parametrize("way", ["cosine", "directional", "text2live"])


@WAYS
def test_inference_mode_changes_nothing(way: str) -> None:
    guidance, x, inputs = case(way)
    wanted, _ = guidance.gradient(x, **inputs)
    with torch.inference_mode():
        guidance, x, inputs = case(way)  # made in it too, weights and all
        assert x.is_inference()
        found, _ = guidance.gradient(x, **inputs)
    assert found.abs().sum() > 0 and torch.equal(found, wanted)
    assert torch.equal(guidance.gradient(x, **inputs)[0], wanted)


@WAYS
def test_autocast_changes_nothing(way: str) -> None:
    guidance, x, inputs = case(way)
    wanted, statistics = guidance.gradient(x, **inputs)
    leaf = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        guidance, _, _ = case(way)
        found, others = guidance.gradient(x, **inputs)
        loss = guidance(leaf, **inputs).loss
    loss.backward()
    assert torch.equal(found, wanted) and others.read() == statistics.read()
    assert leaf.grad is not None and torch.equal(leaf.grad, wanted)


def test_autocast_changes_no_part_that_is_called_alone() -> None:
    clip, x, tokens = Clip.load("primitives"), pictures(0), torch.randn(1, 10, 32)
    text = clip.text_embeddings(["a red cube"])
    parts: list[Callable[[], Tensor]] = [
        lambda: clip.image_embeddings(x),
        lambda: clip.image_embeddings(x[..., :64], whole=True),
        lambda: clip.patch_tokens(x),
        lambda: clip.text_embeddings(["a red cube"]),
        lambda: losses.self_similarity(tokens),
        lambda: relevancy_map(clip, x, text),
        lambda: augment.dream_fields(pictures(0, 4), 32, 16, 2, augment.step_generator("cpu", 0)),
    ]
    for part in parts:
        wanted = part()
        with torch.autocast("cpu", torch.bfloat16):
            found = part()
        assert found.dtype == torch.float32 and torch.equal(found, wanted)


@WAYS
def test_a_loss_over_float16_towers_may_have_any_scale(way: str, half: Clip) -> None:
    guidance, x, inputs = case(way, half)
    wanted, _ = guidance.gradient(x, **inputs)
    assert wanted.isfinite().all() and wanted.abs().sum() > 0
    for scale in (2.0**-20, 1.0, 2.0**16):  # the last is where GradScaler begins
        leaf = x.clone().requires_grad_()
        (guidance(leaf, **inputs).loss * scale).backward()
        assert leaf.grad is not None and torch.allclose(leaf.grad / scale, wanted, rtol=1e-4, atol=0)


def test_embeddings_of_float16_towers_keep_small_gradients_by_themselves(half: Clip) -> None:
    full, x = Clip.load("primitives"), torch.cat([pictures(0), pictures(1)])
    text = full.text_embeddings(["a red cube"])
    weights = torch.tensor([1e-6, 1e6])  # rows do not share a scale
    grown = []
    for clip in (full, half):
        leaf = x.clone().requires_grad_()
        similar = F.cosine_similarity(clip.image_embeddings(leaf), text) + clip.patch_tokens(leaf).square().mean((1, 2))
        (grad,) = torch.autograd.grad((similar * weights).sum(), leaf)
        grown.append(grad)
    for wanted, found in zip(*grown, strict=True):
        assert float((found - wanted).norm() / wanted.norm()) < 5e-3


def test_what_is_not_finite_or_zero_comes_out_as_it_is() -> None:
    x, scale = torch.ones(4, 2, requires_grad=True), GradientScale()
    seen: list[Tensor] = []
    middle = scale.enter(x) * 1
    middle.register_hook(seen.append)
    above = torch.tensor([[0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0], [3e-9, -1e-9]])
    scale.leave(middle).backward(above)
    assert x.grad is not None and torch.equal(x.grad.nan_to_num(7), above.nan_to_num(7))
    assert 8 <= float(seen[0][3, 0]) <= 16
