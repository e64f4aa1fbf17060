"""`ClipGuidance` against its definitions in float64, its two modes against each other, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import ldp_fast
from ldp_fast import ClipGuidance, UsageError
from ldp_fast.clip import Clip, augment, template_set
from ldp_fast.clip.of_transformers import TransformersTowers
from ldp_fast.clip.views import text2live_views

from .fake import fake

SOURCE = {"composition": 0, "screen": 0, "structure": 0, "sparsity": 0, "views": 3}


def cosine(x: Tensor, y: Tensor) -> float:
    return float(x @ y / (x.norm() * y.norm()))


def images(channels: int = 3, batch: int = 2, size: tuple[int, int] = (11, 13), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64)


def ways() -> list[tuple[str, ClipGuidance, Tensor, dict[str, Any]]]:
    clip, before = fake(), images(seed=1)
    return [
        ("cosine", ClipGuidance.cosine(clip, "a cat", views=3, crop=8), images(4), {"step": 2}),
        ("cosine of crops", ClipGuidance.cosine(clip, ["a cat", "a dog"], views=2), images(3), {"stream": 1}),
        ("directional", ClipGuidance.directional(clip, "cat", "dog"), images(), {"source": before}),
        ("text2live", ClipGuidance.text2live(clip, "cat", "dog", views=3), images(4), {
            "source": before, "relevance": images(4)[:, 3:], "step": 4}),
    ]  # fmt: skip


WAYS = pytest.mark.parametrize(("guidance", "x", "inputs"), [pytest.param(*way[1:], id=way[0]) for way in ways()])


@WAYS
def test_both_modes_give_the_same_gradient_which_is_that_of_the_loss(
    guidance: ClipGuidance, x: Tensor, inputs: dict[str, Any]
) -> None:
    leaf = x.clone().requires_grad_()
    out = guidance(leaf, **inputs)
    (2 * out.loss).backward()
    with torch.no_grad():
        found, statistics = guidance.gradient(x, **inputs)
    assert leaf.grad is not None and torch.equal(leaf.grad, 2 * found)
    assert found.shape == x.shape and found.dtype == torch.float64 and not found.requires_grad
    total = sum(statistics.weights[name] * term.mean() for name, term in statistics.terms.items())
    assert float(out.loss.detach()) == pytest.approx(float(total), abs=1e-12)
    assert statistics.read() == out.statistics.read()
    along = torch.randn_like(x)
    along /= along.norm()
    high, low = (float(guidance(x + h * along, **inputs).loss) for h in (1e-6, -1e-6))
    assert (high - low) / 2e-6 == pytest.approx(float((found * along).sum()), abs=1e-6, rel=1e-5)


@WAYS
def test_a_step_is_the_same_again(guidance: ClipGuidance, x: Tensor, inputs: dict[str, Any]) -> None:
    first, again = (guidance(x, **inputs).loss for _ in range(2))
    assert torch.equal(first, again)
    others = [guidance(x, **{**inputs, name: 17}).loss for name in ("step", "stream")]
    others.append(type(guidance)(guidance.clip, guidance.objective, seed=5)(x, **inputs).loss)
    drawn = not isinstance(guidance.objective, ldp_fast.clip.objectives.Directional)  # type: ignore[attr-defined]
    assert all((other != first) == drawn for other in others)


def test_cosine_is_the_mean_over_the_views_of_dream_fields() -> None:
    clip, x = fake(), images(4)
    guidance = ClipGuidance.cosine(clip, ["a cat", "a dog"], views=3, crop=7, seed=9)
    loss = guidance(x, step=5, stream=2).loss
    views = augment.dream_fields(x, 8, 7, 3, augment.step_generator("cpu", 9, 5, 2))
    assert torch.equal(clip.seen[-1], views)
    texts, total = clip.text_embeddings(["a cat", "a dog"]), 0.0
    for v in range(3):
        for b in range(2):
            total += cosine(clip.image_embeddings(views[2 * v + b][None])[0], texts[b])
    assert float(loss) == pytest.approx(-total / 6, abs=1e-12)
    assert guidance(x, step=5, stream=2).statistics.read()["cosine"] == pytest.approx(total / 6)


def test_a_crop_as_a_share_is_of_the_shorter_side() -> None:
    clip, x = fake(), images(3, size=(10, 20))
    share, pixels = (ClipGuidance.cosine(clip, "a cat", crop=crop, views=2)(x).loss for crop in (0.71, 7))
    assert torch.equal(share, pixels)
    whole = ClipGuidance.cosine(clip, "a cat", crop=None, views=2)(x)
    wanted = cosine(clip.image_embeddings(F.interpolate(x, (8, 8), mode="bilinear", antialias=True))[0],
                    clip.text_embeddings(["a cat"])[0])  # fmt: skip
    assert float(whole.statistics.terms["cosine"][0]) == pytest.approx(wanted, abs=1e-6)


def test_directional_is_the_angle_between_unit_differences() -> None:
    clip, x, before = fake(), images(), images(seed=1)
    found = ClipGuidance.directional(clip, "cat", "dog")(x, source=before).statistics.terms["direction"]
    templates, direction = template_set("imagenet"), torch.zeros(5, dtype=torch.float64)
    assert len(templates) == 79
    for template in templates:
        old, new = clip.text_embeddings([template.replace("{}", "cat"), template.replace("{}", "dog")])
        direction += (new / new.norm() - old / old.norm()) / 79
    for b in range(2):
        after, start = clip.image_embeddings(x)[b], clip.image_embeddings(before)[b]
        edit = after / after.norm() - start / start.norm()
        assert float(found[b]) == pytest.approx(1 - cosine(edit, direction), abs=1e-9)


def test_the_first_step_of_directional_has_a_gradient() -> None:
    guidance, x = ClipGuidance.directional(fake(), "cat", "dog"), images()
    g, statistics = guidance.gradient(x, source=x)
    assert statistics.read()["direction"] == 1
    assert g.isfinite().all() and g.abs().sum() > 0
    # A step along it is an edit towards the text, which a chance direction is not.
    assert guidance(x - 0.05 * g / g.norm(), source=x).loss < 0.9


def test_text2live_is_the_sum_of_its_terms() -> None:
    clip, layer, before, mask = fake(), images(4), images(seed=1), images(4)[:, 3:]
    settings = {"views": 3, "bootstrap_steps": 20}
    guidance = ClipGuidance.text2live(clip, "cat", "dog", "dog face", seed=3, **settings)
    out = guidance(layer, source=before, relevance=mask, step=4)
    found, numbers = out.statistics.terms, (3, 4, 0)
    assert out.statistics.weights == {
        "composition": 1, "direction": 1, "screen": 1, "structure": 2, "sparsity": 6, "bootstrap": 10 * (1 - 5 / 20),
    }  # fmt: skip
    colour, opacity = layer[:, :3], layer[:, 3:]
    edited = colour * opacity + before * (1 - opacity)
    green = torch.tensor([0, 177 / 255, 64 / 255], dtype=torch.float64).view(1, 3, 1, 1)

    def views(x: Tensor, stream: int) -> Tensor:
        size = {"short_side": 8, "longest": 11}
        seen = text2live_views(x, count=3, numbers=(*numbers, stream), **size)  # type: ignore[arg-type]
        return clip.image_embeddings(seen).unflatten(0, (3, 2))

    generator = augment.step_generator("cpu", *numbers, 0)
    weights = [ldp_fast.clip.losses.subset_weights(n, generator) for n in (14, 14, 2)]  # type: ignore[attr-defined]
    targets, sources = (
        clip.text_embeddings([x.replace("{}", word) for x in template_set("text2live")]) for word in ("dog", "cat")
    )
    screens = clip.text_embeddings([x.replace("{}", "dog face") for x in template_set("text2live_screen")])
    for b in range(2):
        for name, seen, texts, w in (
            ("composition", views(edited, 1), targets, weights[0]),
            ("screen", views(colour * opacity + green * (1 - opacity), 4), screens, weights[2]),
        ):
            total = 0.0
            for v in range(3):
                for text, share in zip(texts, w.tolist(), strict=True):
                    total += share * math.acos(cosine(seen[v, b], text)) ** 2 / 2 / 3
            assert float(found[name][b]) == pytest.approx(total, abs=1e-6), name
        moved, total = views(edited, 3)[:, b] - views(before, 2)[:, b], 0.0
        for v in range(3):
            for new, old, share in zip(targets, sources, weights[1].tolist(), strict=True):
                total += share * (1 - cosine(moved[v], new - old)) / 3
        assert float(found["direction"][b]) == pytest.approx(total, abs=1e-6)
        squashed = (F.interpolate(x[b : b + 1], (8, 8), mode="bilinear", antialias=True) for x in (opacity, mask))
        assert float(found["bootstrap"][b]) == pytest.approx(float(F.mse_loss(*squashed)), abs=1e-9)
    wanted = ldp_fast.clip.losses.structure_distance(  # type: ignore[attr-defined]
        clip.patch_tokens(edited), clip.patch_tokens(before)
    )
    assert torch.allclose(found["structure"], wanted)
    assert float(out.loss.detach()) == pytest.approx(
        sum(out.statistics.weights[k] * float(x.mean()) for k, x in found.items())
    )


def test_text2live_bootstraps_only_at_the_start_and_only_with_a_map() -> None:
    guidance = ClipGuidance.text2live(fake(), "cat", "dog", **{**SOURCE, "sparsity": 1, "bootstrap_steps": 5})
    layer, before = images(4), images(seed=1)
    assert "bootstrap" not in guidance(layer, source=before).terms
    mask = layer[:, 3:]
    assert guidance(layer, source=before, relevance=mask, step=4).statistics.weights["bootstrap"] == 0
    assert "bootstrap" not in guidance(layer, source=before, relevance=mask, step=5).terms
    nothing = ClipGuidance.text2live(fake(), "cat", "dog", **SOURCE)
    g, statistics = nothing.gradient(images(), source=before)
    assert not g.any() and not statistics.terms


def test_text2live_takes_edited_pictures_where_nothing_asks_for_opacity() -> None:
    clip, x, before = fake(), images(), images(seed=1)
    guidance = ClipGuidance.text2live(clip, "cat", "dog", **{**SOURCE, "structure": 1, "composition": 1})
    opaque = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    assert torch.allclose(guidance(x, source=before).loss, guidance(opaque, source=before).loss, atol=1e-12)
    with pytest.raises(UsageError, match=r"^images: expected \[B, 4, H, W\].*screen=0"):
        ClipGuidance.text2live(clip, "cat", "dog")(x, source=before)


def small(dtype: torch.dtype) -> Clip:
    """A CLIP of random weights, quick in float16 on a CPU."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    towers = Clip.load("primitives").towers
    words = {"vocab_size": towers.network.get_submodule("text_model").embeddings.token_embedding.num_embeddings}
    text = towers.network.config.text_config
    words |= {name: getattr(text, name) for name in ("max_position_embeddings", "eos_token_id", "bos_token_id")}
    config = CLIPConfig(
        text_config={**tower, **words}, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    return Clip(TransformersTowers(CLIPModel(config).to(dtype), towers.tokenizer), "small")


def test_half_precision_towers_give_float32_and_the_same_gradient() -> None:
    x, before = images(size=(40, 36), batch=1).float(), images(size=(40, 36), batch=1, seed=1).float()
    layer = torch.cat([x, x[:, :1]], 1)
    makers: list[tuple[Callable[[Clip], ClipGuidance], Tensor, dict[str, Any]]] = [
        (lambda clip: ClipGuidance.cosine(clip, "a red cube", views=2), x, {}),
        (lambda clip: ClipGuidance.directional(clip, "a red cube", "a ball", templates="none"), x, {"source": before}),
        (lambda clip: ClipGuidance.text2live(clip, "a cube", "a ball", views=2), layer, {"source": before}),
    ]
    for make, given, inputs in makers:
        wanted, found = (make(small(dtype)).gradient(given, **inputs)[0] for dtype in (torch.float32, torch.float16))
        assert found.dtype == torch.float32
        assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_values_outside_of_the_unit_interval_are_seen() -> None:
    x = images()
    statistics = ClipGuidance.cosine(fake(), "a cat")(2 * x - 1).statistics
    assert statistics.read()["outside"] == pytest.approx(float((x < 0.5).double().mean()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [images()[0], images(size=(9, 9))[0]]}, "^images: expected one tensor .*several sizes"),
        ({"images": images()[0]}, "^images: expected"),
        ({"images": images(4)}, "^images: expected"),
        ({"images": (images() * 255).to(torch.uint8)}, "^images: expected floating"),
        ({"images": images()[:0]}, "^images: expected"),
        ({"images": images().to("meta")}, "^images: expected them on cpu"),
        ({"source": None}, "^source: expected the pictures"),
        ({"source": images(size=(9, 9))}, "^source: expected floating-point .2, 3, 11, 13."),
        ({"relevance": images(1)}, "^relevance: expected none"),
        ({"step": -1}, "^step: "),
        ({"stream": 0.5}, "^stream: "),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    call = {"images": images(), "source": images(seed=1), **change}
    with pytest.raises(UsageError, match=message):
        ClipGuidance.directional(fake(), "cat", "dog")(call.pop("images"), **call)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda c: ClipGuidance.cosine(c, ""), "^text: "),
        (lambda c: ClipGuidance.cosine(c, []), "^text: "),
        (lambda c: ClipGuidance.cosine(c, "cat", crop=1.5), "^crop: "),
        (lambda c: ClipGuidance.cosine(c, "cat", crop=0), "^crop: "),
        (lambda c: ClipGuidance.cosine(c, "cat", views=0), "^views: "),
        (lambda c: ClipGuidance.cosine(c, "cat", templates=[]), "^templates: "),
        (lambda c: ClipGuidance.cosine(c, "cat", templates="nada"), "^templates: expected one of imagenet"),
        (lambda c: ClipGuidance.cosine(c, ["a", "b", "c"])(images()), "^images: expected 3"),
        (lambda c: ClipGuidance.cosine(c, "cat", kinds=["stripes"])(images(4)), "^kinds: "),
        (lambda c: ClipGuidance.cosine(c, "cat")(images(), source=images()), "^source: expected none"),
        (lambda c: ClipGuidance.directional(c, "cat", "cat"), "^text: .*no direction"),
        (lambda c: ClipGuidance.directional(c, "cat", "dog", floor=0), "^floor: "),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", lambda_screen=1), "^lambda_screen: expected one of comp"),
        (lambda c: ClipGuidance.cosine(c, "cat", blur=(5, 1)), "^blur: "),
        (lambda c: ClipGuidance.cosine(c, "cat", blur=(0, float("nan"))), "^blur: "),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", views=0), "^views: "),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", views=2.5), "^views: expected a whole number"),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", bootstrap_steps="3"), "^bootstrap_steps: expected a whole"),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", screen="3"), "^screen: expected a number"),
        (lambda c: ClipGuidance.text2live(c, "cat", "dog", structure=-1), "^structure: "),
        (lambda c: ClipGuidance.cosine(Clip.load("primitives"), "red " * 40), "would be lost"),
    ],
)
def test_what_cannot_be_made_is_refused(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(fake())


def test_statistics_are_data() -> None:
    out = ClipGuidance.cosine(fake(), "a cat")(images())
    assert [field.name for field in dataclasses.fields(out.statistics)] == ["terms", "weights", "outside"]
    assert not any(x.requires_grad for x in out.statistics.terms.values())
