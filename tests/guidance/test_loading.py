"""Models as users have them: folders in diffusers' format, SD 2.x, SDXL, TAESD, and names that are wrong."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..support.models import (
    TEXT_WIDTH,
    CompVisAutoencoder,
    save_stable_diffusion,
    scheduler,
    tiny_autoencoder,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_unet,
    tiny_vae,
)
from .naive import naive_gradient


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_folder_in_diffusers_format(tmp_path: pathlib.Path, prediction: str) -> None:
    folder = save_stable_diffusion(tmp_path / "sd", prediction=prediction)
    prior = LatentDiffusionPrior.from_pretrained(str(folder), preset="stylegan", device="cpu", guidance_scale=4.0)
    assert prior.settings.lambda_fm == 3.0 and prior.settings.weighting == "dreamfusion"
    assert prior.dtype == torch.float32 and prior.latent_shape == (4, 8, 8)
    assert not any(p.requires_grad for p in prior.unet.parameters())
    text = prior.encode_prompt(["abc", "xyz"], negative_prompt="bad")
    assert text.text.shape == (2, 16, TEXT_WIDTH) and text.pooled is None
    assert torch.equal(text.uncond[0], text.uncond[1]) and not torch.equal(text.text[0], text.text[1])
    v, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    t = torch.tensor([100, 700])
    expected, _ = naive_gradient(
        prior.unet,
        prior.vae,
        prior.scheduler,
        prior.settings,
        4.0,
        prediction,
        v,
        text.uncond,
        text.text,
        t,
        noise,
    )
    grad, _ = prior.gradient(v, text, timesteps=t, noise=noise)
    assert (grad - expected).norm() < 1e-3 * expected.norm()
    image = prior.decode(v)
    assert image.shape == (2, 3, 64, 64) and 0 <= image.min() and image.max() <= 1
    pixels = image.clone().requires_grad_()
    prior.encode(pixels, torch.Generator().manual_seed(0)).square().sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_sdxl_conditions_reach_the_unet(tmp_path: pathlib.Path) -> None:
    unet, vae = tiny_unet(sdxl=True), tiny_vae()
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    prior = LatentDiffusionPrior(
        unet,
        vae,
        scheduler(),
        tokenizer,
        tiny_text_encoder(),
        tokenizer_2=tokenizer,
        text_encoder_2=tiny_text_encoder(projection=True),
        settings=PriorSettings(0.3, 0.1, guidance_scale=3.0),
    )
    text = prior.encode_prompt("abc", "xyz")
    assert text.text.shape == (1, 16, 2 * TEXT_WIDTH) and text.pooled.shape == (1, TEXT_WIDTH)
    v, noise, t = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8), torch.tensor([10, 600])
    grad, _ = prior.gradient(v, text, timesteps=t, noise=noise)
    both = text.expand(2)
    extra = {
        "added_cond_kwargs": {
            "text_embeds": torch.cat([both.pooled_uncond, both.pooled]),
            "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(4, 6),
        }
    }
    expected, _ = naive_gradient(
        unet,
        vae,
        scheduler(),
        prior.settings,
        3.0,
        "epsilon",
        v,
        both.uncond,
        both.text,
        t,
        noise,
        extra,
    )
    assert (grad - expected).norm() < 1e-3 * expected.norm()


def test_autoencoder_tiny_and_compvis_as_the_vae() -> None:
    text = TextEmbeddings(torch.randn(1, 5, TEXT_WIDTH), torch.randn(1, 5, TEXT_WIDTH))
    v, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    settings = PriorSettings(0.3, 0.1, guidance_scale=3.0)
    call = {"timesteps": 300, "noise": noise}
    tiny = LatentDiffusionPrior(tiny_unet(), tiny_autoencoder(), scheduler(), settings=settings)
    grad, statistics = tiny.gradient(v, text, **call)
    assert torch.isfinite(grad).all() and statistics.levels == ("up0", "up1", "up2")
    assert tiny.decode(v).shape == (1, 3, 64, 64)
    from ldp_fast.decoder import FrozenDecoder

    vae = tiny_vae()
    decoder = FrozenDecoder(CompVisAutoencoder(vae), scaling_factor=vae.config.scaling_factor)
    ours = LatentDiffusionPrior(tiny_unet(), None, scheduler(), settings=settings, decoder=decoder)
    theirs = LatentDiffusionPrior(tiny_unet(), vae, scheduler(), settings=settings)
    torch.testing.assert_close(ours.gradient(v, text, **call)[0], theirs.gradient(v, text, **call)[0])


def test_flow_matching_scheduler_supplies_alpha_and_sigma() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    from ldp_fast.guidance import Schedule

    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = Schedule.from_scheduler(flow)
    alpha, sigma = schedule.gather(torch.tensor([0, 499, 999]))
    torch.testing.assert_close(alpha + sigma, torch.ones(3))
    torch.testing.assert_close(sigma[-1], torch.tensor(1.0))
    torch.testing.assert_close(sigma[1], torch.tensor(3 * 0.5 / 2))
    # The network is told τ·1000, as diffusers' own schedule has it.
    t = torch.arange(1000)
    torch.testing.assert_close(schedule.network_time(t).flip(0), flow.timesteps, rtol=1e-5, atol=1e-3)
    assert torch.equal(Schedule.from_scheduler(scheduler()).network_time(t), t)
    with pytest.raises(TypeError, match="alphas_cumprod"):
        Schedule.from_scheduler(object())


def test_alphas_are_square_roots_in_float32() -> None:
    from ldp_fast.guidance import Schedule

    schedule = Schedule.from_scheduler(scheduler())
    t = torch.tensor([0, 20, 980])
    alpha, sigma = schedule.gather(t)
    alpha_bar = scheduler().alphas_cumprod.double()[t]
    assert alpha.dtype == torch.float32
    torch.testing.assert_close(alpha, alpha_bar.sqrt().float(), rtol=0, atol=0)
    torch.testing.assert_close(sigma, (1 - alpha_bar).sqrt().float(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("primitive", "neither an embedded model"),
        ("", "expected a name or a path, got ''"),
        ("/nowhere/model", "there is no folder"),
        ("./nowhere", "there is no folder"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        LatentDiffusionPrior.from_pretrained(name)
    assert "\n" not in str(raised.value)


def test_wrong_folder_preset_setting_and_dtype(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"without model_index\.json"):
        LatentDiffusionPrior.from_pretrained(str(tmp_path))
    with pytest.raises(UsageError, match="preset: expected one of jacobian_nerf"):
        LatentDiffusionPrior.from_pretrained("primitives", preset="imag")
    with pytest.raises(UsageError, match="settings: unknown lambda_fn"):
        LatentDiffusionPrior.from_pretrained("primitives", lambda_fn=1.0)
    with pytest.raises(UsageError, match="dtype: expected"):
        LatentDiffusionPrior.from_pretrained("primitives", dtype="half")
    with pytest.raises(UsageError, match="dtype: expected"):
        LatentDiffusionPrior.from_pretrained("primitives", dtype=torch.float8_e4m3fn)
    broken = save_stable_diffusion(tmp_path / "sd")
    (broken / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"not a model")
    with pytest.raises(UsageError, match="could not load the unet of '") as raised:
        LatentDiffusionPrior.from_pretrained(str(broken))
    assert "\n" not in str(raised.value)


def test_a_device_that_is_not_there() -> None:
    for device in ("", "nope", "hpu", "meta", "cuda:99", "privateuseone"):
        with pytest.raises(UsageError, match=f"device: '{device}' cannot be used here"):
            LatentDiffusionPrior.from_pretrained(device=device)


@pytest.mark.parametrize(
    ("part", "file"),
    [("unet", "config.json"), ("vae", "diffusion_pytorch_model.safetensors"), ("scheduler", "scheduler_config.json")],
)
def test_a_missing_file_is_told_with_its_part(part: str, file: str, tmp_path: pathlib.Path) -> None:
    (save_stable_diffusion(tmp_path / "sd") / part / file).unlink()
    with pytest.raises(UsageError, match=f"the {part} of '.*sd'"):
        LatentDiffusionPrior.from_pretrained(str(tmp_path / "sd"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "model: .* the controlnet of '.*sd' would not be used"),
        (
            {"motion_adapter": ["diffusers", "MotionAdapter"]},
            "model: .* the motion_adapter of '.*sd' would not be used",
        ),
        ({"requires_aesthetics_score": True}, r"model: .* aesthetic score among them \(SDXL's refiner\)"),
    ],
)
def test_a_folder_is_refused_as_its_pipeline_is(change: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    index = save_stable_diffusion(tmp_path / "sd") / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "controlnet": [None, None]}))
    LatentDiffusionPrior.from_pretrained(str(tmp_path / "sd"))
    index.write_text(json.dumps({**json.loads(index.read_text()), **change}))
    with pytest.raises(UsageError, match=message):
        LatentDiffusionPrior.from_pretrained(str(tmp_path / "sd"))


def test_a_tokenizer_that_is_replaced_needs_words(tmp_path: pathlib.Path) -> None:
    from transformers import CLIPTokenizer

    prior = LatentDiffusionPrior.from_pretrained(str(save_stable_diffusion(tmp_path / "sd")))
    vocab, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocab.write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    merges.write_text("#version: 0.2\n")
    prior.tokenizer = CLIPTokenizer(str(vocab), str(merges))
    with pytest.raises(UsageError, match="tokenizer: expected a vocabulary, got one of 2 tokens, all of them special"):
        prior.encode_prompt("a red cube")


def test_prompts_are_checked(tmp_path: pathlib.Path) -> None:
    prior = LatentDiffusionPrior(tiny_unet(), tiny_vae(), scheduler())
    with pytest.raises(UsageError, match="no tokenizer"):
        prior.encode_prompt("abc")
    prior.tokenizer, prior.text_encoder = tiny_tokenizer(tmp_path), tiny_text_encoder()
    with pytest.raises(UsageError, match="empty prompt"):
        prior.encode_prompt("  ")
    with pytest.raises(UsageError, match="negative_prompt: expected 1 or 3"):
        prior.encode_prompt(["a", "b", "c"], ["x", "y"])
    prior.notes = {"words": ["a", "red", "cube"], "prompt_help": "red cubes"}
    with pytest.raises(UsageError, match="does not know 'hamburger'; it knows: red cubes"):
        prior.encode_prompt("a red hamburger")


def pipeline(folder: pathlib.Path, **kwargs: Any) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(
        save_stable_diffusion(folder), safety_checker=None, requires_safety_checker=False, **kwargs
    )


def test_from_a_pipeline_whose_modules_are_shared(tmp_path: pathlib.Path) -> None:
    pipe = pipeline(tmp_path / "sd")
    before = {name: p.requires_grad for name, p in pipe.unet.named_parameters()}
    prior = LatentDiffusionPrior.from_pipe(pipe, preset="latent_nerf", guidance_scale=7.5)
    for name in ("unet", "vae", "scheduler", "tokenizer", "text_encoder"):
        assert getattr(prior, name) is getattr(pipe, name)
    assert prior.settings.weighting == "latent_nerf" and prior.guidance_scale == 7.5
    v, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    text = prior.encode_prompt("abc")
    embeds, negative = pipe.encode_prompt("abc", "cpu", 1, True, negative_prompt="")
    torch.testing.assert_close(text.text, embeds)
    torch.testing.assert_close(text.uncond, negative)
    g, _ = prior.gradient(v, text, timesteps=300, noise=noise)
    loaded = LatentDiffusionPrior.from_pretrained(
        str(tmp_path / "sd"), preset="latent_nerf", device="cpu", guidance_scale=7.5
    )
    assert torch.equal(g, loaded.gradient(v, loaded.encode_prompt("abc"), timesteps=300, noise=noise)[0])
    assert {name: p.requires_grad for name, p in pipe.unet.named_parameters()} == before
    assert all(p.grad is None for p in pipe.vae.parameters())
    # What happens to the pipeline's modules happens to the prior's.
    with torch.no_grad():
        pipe.unet.conv_out.bias.add_(1.0)
    assert not torch.equal(prior.gradient(v, text, timesteps=300, noise=noise)[0], g)


def test_a_pipeline_that_cannot_serve_says_why(tmp_path: pathlib.Path) -> None:
    class Transformer:
        vae, scheduler = tiny_vae(), scheduler()

    with pytest.raises(
        UsageError, match="pipe: expected a pipeline with unet, vae and scheduler; Transformer has no unet"
    ):
        LatentDiffusionPrior.from_pipe(Transformer())
    pipe = pipeline(tmp_path / "sd")
    pipe.unet.to("meta")
    with pytest.raises(UsageError, match="the unet of this StableDiffusionPipeline is offloaded"):
        LatentDiffusionPrior.from_pipe(pipe)
    with pytest.raises(UsageError, match="preset"):
        LatentDiffusionPrior.from_pipe(pipe, preset="none")
