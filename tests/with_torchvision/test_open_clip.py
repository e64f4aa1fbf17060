"""A CLIP of open_clip against open_clip's own: a small architecture with random weights, from a file or by a tag."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldp_fast.clip import Clip
from ldp_fast.errors import UsageError
from ldp_fast.metrics import ClipScorer, n_way

SIZE, PATCH = 32, 8
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VISION: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": SIZE, "layers": 3, "width": 24, "head_width": 12, "patch_size": PATCH},
    "tiny-residual": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 8},
    "tiny-larger": {"image_size": 6 * PATCH, "layers": 3, "width": 24, "head_width": 12, "patch_size": PATCH},
}
CAPTIONS = ["a red cube", "two blue spheres on a cone"]


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    for name, vision in VISION.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 10, "vision_cfg": vision, "text_cfg": TEXT}))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name in ("tiny", "tiny-residual"):
        torch.manual_seed(5)
        model = open_clip.create_model(name)
        with torch.no_grad():  # as they are made, weights are so small that every picture looks alike
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(3)
        found[name] = folder / f"{name}.pt"
        torch.save(model.state_dict(), found[name])
    return found


def load(weights: dict[str, pathlib.Path], name: str = "tiny", **kwargs: Any) -> Clip:
    return Clip.load(f"open_clip:{name}:{weights[name]}", **kwargs)


@pytest.mark.parametrize("name", ["tiny", "tiny-residual"])
def test_embeddings_are_open_clips(weights: dict[str, pathlib.Path], name: str) -> None:
    clip = load(weights, name)
    model, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=str(weights[name]))
    model.eval()
    tokens = open_clip.get_tokenizer(name)(CAPTIONS)
    rng = np.random.default_rng(0)
    # With an even margin: of an odd one, torchvision cuts the other half of a pixel than transformers does.
    for size in ((SIZE, SIZE), (64, 96), (80, 64)):
        coarse = Image.fromarray(rng.integers(50, 200, (5, 5, 3), dtype=np.uint8))
        shown = coarse.resize(size[::-1], Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            seen, read = model.encode_image(preprocess(shown)[None]), model.encode_text(tokens)
            found = clip.image_embeddings(pixels)
        if size == (SIZE, SIZE):
            torch.testing.assert_close(found, seen, rtol=1e-4, atol=1e-4)
        assert float(F.cosine_similarity(found, seen)) > 0.995, "Pillow rounds to whole levels"
        torch.testing.assert_close(clip.text_embeddings(CAPTIONS), read, rtol=1e-5, atol=1e-5)
    assert (clip.image_size, clip.context_length, clip.embedding_size) == (SIZE, 12, 10)


def test_patches_of_any_size_as_a_model_made_for_them(weights: dict[str, pathlib.Path]) -> None:
    clip = load(weights)
    state = torch.load(weights["tiny"])
    table = state["visual.positional_embedding"]
    grid = F.interpolate(table[1:].T.reshape(1, -1, 4, 4), (6, 6), mode="bicubic", align_corners=False)
    larger = open_clip.create_model("tiny-larger").eval()
    larger.load_state_dict({**state, "visual.positional_embedding": torch.cat([table[:1], grid[0].flatten(1).T])})
    images = torch.rand(2, 3, 52, 48, generator=torch.Generator().manual_seed(3)).requires_grad_()
    pixels = clip._normalised(images)[..., :48, :]
    found = larger.visual.forward_intermediates(
        pixels, indices=[1], normalize_intermediates=False, output_fmt="NLC", output_extra_tokens=True
    )
    tokens = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], 1)
    torch.testing.assert_close(clip.patch_tokens(images), tokens, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        clip.image_embeddings(images, whole=True), larger.encode_image(pixels), rtol=1e-4, atol=1e-4
    )
    clip.patch_tokens(images).sum().backward()
    assert images.grad is not None and images.grad[..., :48, :].all() and not images.grad[..., 48:, :].any()
    assert not any(weight.requires_grad for weight in clip.towers.network.parameters())


def test_a_tower_without_patches_says_so(weights: dict[str, pathlib.Path]) -> None:
    clip = load(weights, "tiny-residual")
    for see in (clip.patch_tokens, lambda images: clip.image_embeddings(images, whole=True)):
        with pytest.raises(UsageError, match="that of tiny-residual is ModifiedResNet"):
            see(torch.rand(1, 3, 40, 40))


def test_half_precision_and_long_captions(weights: dict[str, pathlib.Path]) -> None:
    clip, half = load(weights), load(weights, dtype=torch.float16)
    images = torch.rand(2, 3, 40, 40)
    for kind in ("image_embeddings", "patch_tokens"):
        found, expected = getattr(half, kind)(images), getattr(clip, kind)(images)
        assert found.dtype == torch.float32 and float(F.cosine_similarity(found, expected, dim=-1).min()) > 0.999
    assert half.text_embeddings(CAPTIONS).dtype == torch.float32
    long = "one two three four five six seven eight nine ten eleven twelve"
    assert clip.lost_words(long) == "eleven twelve" and clip.lost_words("a cube") == ""
    with pytest.raises(UsageError, match=r"has 14 tokens.* reads 12.*'eleven twelve'"):
        clip.text_embeddings([long])
    cut = clip.text_embeddings([long], truncate=True)
    torch.testing.assert_close(cut, clip.text_embeddings([long.removesuffix(" eleven twelve")]))


def test_a_scorer_of_it_judges(weights: dict[str, pathlib.Path]) -> None:
    scorer = ClipScorer.from_pretrained(f"open_clip:tiny:{weights['tiny']}")
    assert n_way(scorer, torch.rand(3, 3, SIZE, SIZE), ["a", "b", "c"], ["a", "b", "c", "d"]).shape == (3,)


def test_a_tag_is_taken_from_the_cache_and_never_fetched(
    weights: dict[str, pathlib.Path], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = {
        "url": "https://example.invalid/made/tiny-mine.pt",
        "quick_gelu": True,
        "mean": (0.5,) * 3,
        "std": (0.25,) * 3,
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"mine": note})
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"'mine' of open_clip's tiny are not in the cache.*fetch them from https"):
        Clip.load("open_clip:tiny:mine")
    cache = tmp_path / ".cache" / "clip"
    cache.mkdir(parents=True)
    (cache / "tiny-mine.pt").write_bytes(weights["tiny"].read_bytes())
    clip = Clip.load("open_clip:tiny:mine")
    assert tuple(clip.towers.mean) == (0.5,) * 3 and tuple(clip.towers.std) == (0.25,) * 3
    images = torch.rand(1, 3, SIZE, SIZE)
    model = open_clip.create_model("tiny", pretrained=str(weights["tiny"]), force_quick_gelu=True).eval()
    with torch.no_grad():
        expected = model.encode_image((images - 0.5) / 0.25)
    torch.testing.assert_close(clip.image_embeddings(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-33:x", "does not know the architecture 'ViT-B-33' .did you mean ViT-B-32"),
        (
            "open_clip:ViT-B-32:nothing",
            "expected a file, or a tag of open_clip's ViT-B-32 .its tags are .*got 'nothing'",
        ),
        ("open_clip:tiny:nothing", "it has none.*got 'nothing'"),
        ("open_clip:xlm-roberta-base-ViT-B-32:x", "fetches parts of itself"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        Clip.load(name)
    assert str(raised.value).startswith("clip: ") and "\n" not in str(raised.value)


def test_a_file_that_is_something_else_is_one_line(weights: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.pt").write_text("not weights")
    for file in (tmp_path / "text.pt", weights["tiny-residual"]):
        with pytest.raises(UsageError, match="clip: could not load 'open_clip:tiny:") as raised:
            Clip.load(f"open_clip:tiny:{file}")
        assert "\n" not in str(raised.value)
