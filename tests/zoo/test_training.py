"""The trainer: a resumed run is the uninterrupted run, the tokenizer and the exported folder are what they say."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch

from ldp_fast.zoo import clip, data, loop, train, unet, vae, world


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
    assert np.array_equal(images.images[3], again)
    with pytest.raises(FileNotFoundError, match="run the data stage first"):
        data.RenderedImages(work / "data", "validation")


def test_every_stage_runs_and_the_export_loads(work: pathlib.Path) -> None:
    """One step of each stage: what comes out is a model that the prior loads, not a good one."""
    made = work / "full_precision"
    vae.train(work, made, seed=0, steps=1, batch=2, amp=False)
    clip.train(work, made, seed=0, steps=1, batch=4, amp=False)
    unet.train(work, made, seed=0, steps=1, batch=2, amp=False)
    target = work / "primitives"
    train.export(made, target)
    from ldp_fast import LatentDiffusionPrior
    from ldp_fast.metrics import ClipScorer

    prior = LatentDiffusionPrior.from_pretrained(str(target), device="cpu")
    assert prior.guidance_scale == train.GUIDANCE_SCALE and prior.latent_shape == (4, 16, 16)
    gradient, _ = prior.gradient(torch.randn(1, 4, 16, 16), prior.encode_prompt("a red cube"))
    assert torch.isfinite(gradient).all()
    weights = sum(path.stat().st_size for path in target.rglob("*.safetensors"))
    assert weights < 12e6, "the embedded models must stay under 12 MB"
    scorer = ClipScorer.from_pretrained(str(target))
    assert scorer.text_features(["a red cube"]).shape == scorer.image_features(torch.rand(1, 3, 128, 128)).shape
    assert set(json.loads((target / "ldp_fast.json").read_text())["words"]) >= {"red", "cube", "checkered", "overhead"}


def test_every_word_is_one_token(tmp_path: pathlib.Path) -> None:
    tokenizer = clip.build_tokenizer(tmp_path)
    rng = np.random.default_rng(1)
    for _ in range(50):
        caption = world.training_caption(rng, world.sample_scene(rng, held_out=None), world.sample_view(rng))
        assert len(tokenizer.tokenize(caption)) == len(caption.replace(",", " ,").split())
        assert (clip.tokenize(tokenizer, [caption])[0] == tokenizer.eos_token_id).any(), "cut off"
