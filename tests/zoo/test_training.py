"""The trainer: a resumed run is the uninterrupted run, the tokenizer and the exported folder are what they say."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch

from ldp_fast.generators import load
from ldp_fast.guidance.loading import ZOO
from ldp_fast.zoo import clip, data, generator, loop, train, unet, vae, world


def regression(seed: int) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(seed)
    module = torch.nn.Linear(3, 1)

    def loss_at(step: int):
        rng = np.random.default_rng((seed, step))
        x = torch.from_numpy(rng.standard_normal((16, 3), dtype=np.float32))
        loss = (module(x) - x.sum(1, keepdim=True)).square().mean()
        return loss, {"loss": float(loss.detach())}

    return module, loss_at


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: pathlib.Path) -> None:
    options = {"steps": 400, "peak_rate": 0.05, "name": "test", "checkpoint_every": 150}
    module, loss_at = regression(0)
    whole = loop.train(module, loss_at, checkpoint=tmp_path / "whole.pt", **options)
    module, loss_at = regression(0)

    def interrupted(step: int):
        if step == 200:
            raise KeyboardInterrupt
        return loss_at(step)

    with pytest.raises(KeyboardInterrupt):
        loop.train(module, interrupted, checkpoint=tmp_path / "parts.pt", **options)
    module, loss_at = regression(0)
    parts = loop.train(module, loss_at, checkpoint=tmp_path / "parts.pt", **options)
    for name in whole:
        assert torch.equal(whole[name], parts[name])
    torch.testing.assert_close(whole["weight"], torch.ones(1, 3), atol=0.1, rtol=0)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data set of a few images, in the files that the data stage leaves."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SHARD_SIZE", 12)
        patch.setattr(data, "TRAIN_SHARDS", 1)
        data._make_shard(folder / "train-000.npz", 0, 0, False)
    (folder / "data").mkdir()
    (folder / "train-000.npz").rename(folder / "data" / "train-000.npz")
    return folder


def test_shards_hold_what_was_rendered(work: pathlib.Path) -> None:
    images = data.RenderedImages(work / "data", "train")
    assert len(images) == 12 and not any(scene.held_out() for scene in images.scenes)
    again = world.render(images.scenes[3], images.views[3])
    picture = images.pictures(np.array([3]), np.array([images.views[3].background]))[0]
    np.testing.assert_allclose((picture.transpose(1, 2, 0) / 2 + 0.5) * 255, again, atol=1.6)
    half = images.pictures(np.array([3, 3]), np.array([0.3, 0.3]), np.array([0.5, 1.0]))
    np.testing.assert_allclose(half[0], 0.5 * half[1] + 0.5 * (2 * 0.3 - 1), atol=1e-6)
    with pytest.raises(FileNotFoundError, match="run the data stage first"):
        data.RenderedImages(work / "data", "validation")


def test_every_stage_runs_and_the_export_loads(work: pathlib.Path) -> None:
    """One step of each stage: what comes out is a model that the prior loads, not a good one."""
    made = work / "full_precision"
    vae.train(work, made, seed=0, steps=1, batch=2)
    clip.train(work, made, seed=0, steps=1, batch=4)
    clip.train(work, made, seed=0, steps=1, batch=4, name="judge")
    unet.train(work, made, seed=0, steps=1, batch=2, start=ZOO / "primitives")
    generator.Poses(work / "data" / "poses.npz", 0, count=3)
    generator.train(work, made, seed=0, steps=1, batch=2)
    target = work / "primitives"
    train.export(made, target)
    from ldp_fast import LatentDiffusionPrior
    from ldp_fast.metrics import ClipScorer

    prior = LatentDiffusionPrior.from_pretrained(str(target), device="cpu")
    assert prior.guidance_scale == train.GUIDANCE_SCALE and prior.latent_shape == (4, 16, 16)
    assert load(target / "generator").mapping(torch.randn(2, 8)).shape == (2, 10, 96)
    gradient, _ = prior.gradient(torch.randn(1, 4, 16, 16), prior.encode_prompt("a red cube"))
    assert torch.isfinite(gradient).all()
    weights = sum(path.stat().st_size for path in target.rglob("*.safetensors"))
    assert weights < 24e6, "the embedded models must stay under 24 MB"
    scorer = ClipScorer.from_pretrained(str(target))
    assert scorer.text_features(["a red cube"]).shape == scorer.image_features(torch.rand(1, 3, 128, 128)).shape
    assert set(json.loads((target / "ldp_fast.json").read_text())["words"]) >= {"red", "cube", "checkered", "overhead"}


def test_what_latents_should_be_is_linear_in_the_mean_colours() -> None:
    a, b = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    mixed = vae.wanted_latents(0.3 * a + 0.7 * b)
    torch.testing.assert_close(mixed, 0.3 * vae.wanted_latents(a) + 0.7 * vae.wanted_latents(b), atol=1e-5, rtol=0)
    assert mixed.shape == (1, 3, 2, 2)
    grey = torch.full((1, 3, 8, 8), 0.2)
    found = vae.wanted_latents(grey)[0, :, 0, 0]
    assert found[0] == pytest.approx(3**0.5 * (0.2 - vae.MIDDLE_GREY) / vae.COLOUR_SPREAD[0], rel=1e-3)
    torch.testing.assert_close(found[1:], torch.zeros(2), atol=1e-3, rtol=0)


def test_pictures_of_training_are_crops_of_every_kind(work: pathlib.Path) -> None:
    images = data.RenderedImages(work / "data", "train")
    drawn = vae.training_pictures(np.random.default_rng(0), images, 40, 64)
    assert drawn.shape == (40, 3, 64, 64) and drawn.dtype == torch.float32 and drawn.abs().max() <= 1.2
    assert torch.equal(drawn, vae.training_pictures(np.random.default_rng(0), images, 40, 64))


def test_every_word_is_one_token(tmp_path: pathlib.Path) -> None:
    tokenizer = clip.build_tokenizer(tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(50):
        caption = world.training_caption(rng, world.sample_scene(rng, held_out=None), world.sample_view(rng))
        assert len(tokenizer.tokenize(caption)) == len(caption.replace(",", " ,").split())
        assert (clip.tokenize(tokenizer, [caption])[0] == tokenizer.eos_token_id).any(), "cut off"
