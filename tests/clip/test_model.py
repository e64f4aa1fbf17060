"""One CLIP against transformers' own model and image processor: pictures, captions, patches, gradients, refusals."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ldp_fast.clip import Clip
from ldp_fast.errors import UsageError

from ..support.clip import CONTEXT, PATCH, SIZE, processor, save_clip, tiny_clip

CAPTIONS = ["ab c", "a", "x y z 1 2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture(scope="module")
def clip(folder: pathlib.Path) -> Clip:
    return Clip.load(str(folder))


@pytest.fixture(scope="module")
def definition() -> Any:
    return tiny_clip().double().requires_grad_(False)


def picture(height: int, width: int) -> np.ndarray:
    """Smooth colours under fine noise, uint8; far from 0 and 255, where Pillow cuts off between its two passes."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
    return np.clip(60 + smooth / 2 + rng.normal(0, 10, smooth.shape), 50, 200).astype(np.uint8)


def tensor(*pictures: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1).float() / 255 for p in pictures])


def own_embeddings(model: Any, pixels: torch.Tensor) -> torch.Tensor:
    seen = model.vision_model(pixel_values=pixels.double()).pooler_output
    return seen @ model.visual_projection.weight.T


@pytest.mark.parametrize("size", [(32, 32), (50, 70), (90, 41), (20, 20), (33, 32), (17, 30), (200, 64)], ids=str)
def test_pictures_are_seen_as_transformers_shows_them(clip: Clip, definition: Any, size: tuple[int, int]) -> None:
    shown = picture(*size)
    expected = processor()(images=Image.fromarray(shown), return_tensors="pt").pixel_values
    given_pixels: list[torch.Tensor] = []
    hook = clip.towers.network.vision_model.register_forward_pre_hook(
        lambda _module, _inputs, kwargs: given_pixels.append(kwargs["pixel_values"]), with_kwargs=True
    )
    with torch.no_grad():
        found, own = clip.image_embeddings(tensor(shown)), own_embeddings(definition, expected)
    hook.remove()
    # Pillow rounds to whole levels after each of its two passes.
    level = 1 / 255 / 0.26
    assert float((given_pixels[0] - expected).abs().max()) <= (1e-5 if size == (SIZE, SIZE) else 1.6 * level)
    torch.testing.assert_close(found.double(), own_embeddings(definition, given_pixels[0]), rtol=1e-4, atol=1e-4)
    assert float(F.cosine_similarity(found.double(), own)) > 0.995


def test_both_towers_are_those_of_the_model(clip: Clip, folder: pathlib.Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    tokens = CLIPTokenizer.from_pretrained(folder)(CAPTIONS, padding=True, return_tensors="pt")
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (clip.towers.mean, clip.towers.std))
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder)(**tokens, pixel_values=(images - mean) / std)
    seen, read = clip.image_embeddings(images), clip.text_embeddings(CAPTIONS)
    torch.testing.assert_close(F.normalize(seen, dim=1), expected.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(F.normalize(read, dim=1), expected.text_embeds, rtol=1e-4, atol=1e-5)
    assert not read.requires_grad and (read.norm(dim=1) - 1).abs().min() > 1e-3, "not normalised"
    assert (clip.image_size, clip.patch_size, clip.context_length, clip.embedding_size) == (SIZE, PATCH, CONTEXT, 12)
    assert clip.text_embeddings([]).shape == (0, 12)


@pytest.mark.parametrize("size", [(32, 32), (41, 60)], ids=str)
@pytest.mark.parametrize("what", ["image_embeddings", "patch_tokens"])
def test_gradients_reach_the_pictures(clip: Clip, what: str, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    # Away from 0 and 1, where what is resized is cut off.
    images = (torch.rand(2, 3, *size, generator=generator) * 0.3 + 0.35).requires_grad_()
    weight = torch.randn(getattr(clip, what)(images).shape, generator=generator)

    def value(pixels: torch.Tensor) -> torch.Tensor:
        return (getattr(clip, what)(pixels).double() * weight).sum()

    value(images).backward()
    assert images.grad is not None
    # Along the gradient, where rounding is small beside the difference; and a little off it.
    towards = images.grad + 0.5 * images.grad.flip(-1)
    towards = towards / towards.norm()
    with torch.no_grad():
        difference = (value(images + 0.01 * towards) - value(images - 0.01 * towards)) / 0.02
    assert float((images.grad * towards).sum()) == pytest.approx(float(difference), rel=0.02)
    assert not any(weight.requires_grad or weight.grad is not None for weight in clip.towers.network.parameters())
    assert not clip.towers.network.training


def test_half_precision_towers_give_float32(clip: Clip, folder: pathlib.Path) -> None:
    half = Clip.load(str(folder), dtype=torch.float16)
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(2)).requires_grad_()
    for kind in ("image_embeddings", "patch_tokens"):
        found, expected = getattr(half, kind)(images), getattr(clip, kind)(images)
        assert (
            found.dtype == torch.float32 and float(F.cosine_similarity(found, expected, dim=-1).min().detach()) > 0.9999
        )
    half.image_embeddings(images).sum().backward()
    assert images.grad is not None and images.grad.dtype == torch.float32 and images.grad.isfinite().all()
    read = half.text_embeddings(CAPTIONS)
    assert read.dtype == torch.float32
    assert float(F.cosine_similarity(read, clip.text_embeddings(CAPTIONS)).min()) > 0.9999


def larger(model: Any, rows: int) -> Any:
    """The same CLIP for pictures of `rows` patches a side, its positions interpolated."""
    made, weights = tiny_clip(image_size=rows * PATCH).double(), model.state_dict()
    key, side = "vision_model.embeddings.position_embedding.weight", SIZE // PATCH
    table = weights[key]
    grid = table[1:].T.reshape(1, -1, side, side)
    grid = F.interpolate(grid, (rows, rows), mode="bicubic", align_corners=False)
    made.load_state_dict({**weights, key: torch.cat([table[:1], grid[0].flatten(1).T])})
    return made


def test_pictures_of_any_size_as_a_model_made_for_them(clip: Clip, definition: Any) -> None:
    images = torch.rand(2, 3, 52, 48, generator=torch.Generator().manual_seed(3))
    pixels = clip._normalised(images)[..., :48, :].double()  # what does not fill a patch is not seen
    model = larger(definition, 6)
    tokens = model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(clip.patch_tokens(images).double(), tokens, rtol=1e-4, atol=1e-4)
    whole = clip.image_embeddings(images, whole=True).double()
    torch.testing.assert_close(whole, own_embeddings(model, pixels), rtol=1e-4, atol=1e-4)
    assert clip.patch_tokens(images[..., :32, :32]).shape == (2, 1 + 16, 24)
    assert clip.patch_tokens(images[..., :16]).shape == (2, 1 + 6 * 2, 24)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((100, 200), 32, None, (32, 64)),
        ((100, 200), 32, 48, (24, 48)),
        ((200, 100), 32, 48, (48, 24)),
        ((100, 200), 32, 64, (32, 64)),
    ],
    ids=str,
)
def test_the_short_side_and_the_longest(
    clip: Clip, size: tuple[int, int], short: int, longest: int | None, expected: tuple[int, int]
) -> None:
    found = clip.patch_tokens(torch.rand(1, 3, *size), short_side=short, longest=longest)
    assert found.shape[1] == 1 + (expected[0] // PATCH) * (expected[1] // PATCH)


def test_what_is_not_a_picture_is_refused(clip: Clip) -> None:
    for images in (torch.rand(3, 32, 32), torch.rand(1, 4, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"images: expected floating \[B, 3, H, W\]"):
            clip.image_embeddings(images)
    for see in (clip.patch_tokens, lambda images: clip.image_embeddings(images, whole=True)):
        with pytest.raises(ValueError, match="images: expected at least 8 pixels a side"):
            see(torch.rand(1, 3, 7, 40))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text("abz", min_size=1, max_size=6), max_size=9))
def test_lost_words_are_those_that_do_not_fit(clip: Clip, words: list[str]) -> None:
    # Each letter of this vocabulary is a token, begin and end are two more.
    fitting = 0
    while fitting < len(words) and sum(map(len, words[: fitting + 1])) + 2 <= CONTEXT:
        fitting += 1
    assert clip.lost_words(" ".join(words)) == " ".join(words[fitting:])


def test_a_caption_that_is_too_long_is_refused_or_cut(clip: Clip) -> None:
    long = "a b c d e f g h i j k l m nn o"
    with pytest.raises(UsageError) as raised:
        clip.text_embeddings(["a", long])
    assert "has 18 tokens" in str(raised.value) and "reads 16" in str(raised.value)
    assert "would be lost: 'nn o'" in str(raised.value)
    cut = clip.text_embeddings(["a", long], truncate=True)
    kept = clip.text_embeddings(["a", "a b c d e f g h i j k l m"])
    assert torch.equal(cut[0], kept[0]) and not torch.allclose(cut[1], kept[1]), "half of a word was still read"
    torch.testing.assert_close(cut[1], clip.text_embeddings([long[:-2]], truncate=True)[0])


def test_what_is_loaded_by_which_name(folder: pathlib.Path, clip: Clip, tmp_path: pathlib.Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(folder, model / "clip")
    (model / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        if (model / "clip" / name).is_file():
            (model / "clip" / name).rename(model / "tokenizer" / name)
    inside = Clip.load(str(model))
    assert inside.name == str(model) and inside.digest == clip.digest
    assert torch.equal(inside.text_embeddings(CAPTIONS), clip.text_embeddings(CAPTIONS))
    save_clip(tmp_path / "other", seed=4)
    assert Clip.load(str(tmp_path / "other")).digest != clip.digest
    assert Clip.load(str(folder), dtype=torch.float16).digest != clip.digest
    embedded = Clip.load()
    assert (embedded.name, embedded.image_size, embedded.context_length) == ("primitives", 128, 24)
    judge = Clip.load("primitives/judge")
    assert judge.digest != embedded.digest and judge.towers.mean == [0.5] * 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/nowhere/clip", "could not load"),
        ("open_clip:ViT-B-32", "expected open_clip:ARCHITECTURE:WEIGHTS"),
        ("open_clip::file", "expected open_clip:ARCHITECTURE:WEIGHTS"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        Clip.load(name)
    assert str(raised.value).startswith("clip: ") and "\n" not in str(raised.value)


def test_without_open_clip_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(UsageError, match=r"pip install 'ldp-fast\[openclip\]'"):
        Clip.load("open_clip:ViT-B-32:weights.pt")


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(UsageError, match="device: 'nonsense' cannot be used"):
        Clip.load(device="nonsense")


@pytest.mark.parametrize("size", [(3, 80), (47, 2), (1, 90), (5, 83), (9, 8)])
def test_the_ends_of_a_long_picture_do_not_count(size: tuple[int, int]) -> None:
    clip, images = Clip.load("primitives"), torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    whole = clip._resized(images, clip.image_size, None)
    top, left = ((x - clip.image_size) // 2 for x in whole.shape[-2:])
    centre = whole[..., top : top + clip.image_size, left : left + clip.image_size]
    found, expected = clip.image_embeddings(images), clip.image_embeddings(centre)
    assert torch.cosine_similarity(found, expected).item() > 0.9999


def test_a_strip_is_not_enlarged_as_a_whole() -> None:
    clip = Clip.load("primitives")
    assert clip.image_embeddings(torch.rand(1, 3, 1, 4_000_000)).isfinite().all()
