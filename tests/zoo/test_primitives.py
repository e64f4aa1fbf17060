"""The embedded model as it is shipped: its size, its scores (on fewer images than its card), a picture made with it."""

from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors import safe_open

from ldp_fast import LatentDiffusionPrior
from ldp_fast.errors import UsageError
from ldp_fast.guidance.loading import ZOO
from ldp_fast.metrics import ClipScorer, r_precision
from ldp_fast.zoo import evaluate, world

FOLDER = ZOO / "primitives"
POOL = [scene.caption() for scene in world.all_scenes()]


@pytest.fixture(scope="module")
def prior() -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_pretrained("primitives", preset="image", device="cpu")


def test_weights_are_small_half_precision_safetensors() -> None:
    paths = sorted(FOLDER.rglob("*.safetensors"))
    assert {path.parent.name for path in paths} == {"clip", "generator", "judge", "text_encoder", "unet", "vae"}
    assert sum(path.stat().st_size for path in paths) < 16e6
    for path in paths:
        with safe_open(str(path), framework="pt") as file:
            dtypes = {file.get_tensor(name).dtype for name in file.keys()}
        assert dtypes <= {torch.float16, torch.int64}, path
    assert not [p for p in FOLDER.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt")]


def test_diffusers_own_pipeline_loads_it() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(FOLDER), torch_dtype=torch.float32)
    image = pipe("a red cube", num_inference_steps=2, output_type="pt").images
    assert image.shape == (1, 3, 128, 128)


def test_vae_and_clip_on_images_never_seen(prior: LatentDiffusionPrior) -> None:
    images, masks, scenes = evaluate.truth(30, 31, held_out=None)
    found = evaluate.evaluate_vae(prior.vae, images, masks)
    assert found["vae_psnr"] >= 28 and found["vae_colour_error"] <= 0.05
    right = r_precision(ClipScorer.from_pretrained("primitives"), images, [s.caption() for s in scenes], POOL)
    assert right.float().mean() >= 0.93


def test_guided_samples_show_what_their_prompt_says() -> None:
    scorer = ClipScorer.from_pretrained("primitives")
    prompts = POOL[::23]
    made = evaluate.sample(str(FOLDER), prompts, steps=12, guidance_scale=5.0, seed=1)
    assert r_precision(scorer, made, prompts, POOL).float().mean() >= 0.8


def test_the_full_loss_makes_what_the_prompt_asks_for(tmp_path: pathlib.Path) -> None:
    """The main job, end to end, in fewer steps than the demo: two prompts, and CLIP and the colours as judges."""
    from ldp_fast import cli

    prompts = ["a red cube", "a blue sphere"]
    words = ["synthesize", *prompts, "--steps", "100", "--device", "cpu", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    from PIL import Image
    from torch import from_numpy

    paths = sorted((tmp_path / "run" / "images").glob("*.png"))
    import numpy as np

    images = torch.stack([from_numpy(np.array(Image.open(path))) for path in paths]).permute(0, 3, 1, 2).float() / 255
    right = r_precision(ClipScorer.from_pretrained("primitives"), images, prompts, POOL, distractors=30)
    assert right.all()
    middle = images[:, :, 48:80, 48:80].mean((2, 3))
    assert middle[0].argmax() == 0 and middle[1].argmax() == 2
    assert "lambda_fm: 3.0\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_unknown_words_are_named(prior: LatentDiffusionPrior) -> None:
    with pytest.raises(UsageError, match="does not know 'hamburger'"):
        prior.encode_prompt("a red hamburger")
    assert prior.encode_prompt("A photo of a red cube, side view.").text.shape[0] == 1
