"""One `.safetensors` in the layout of CompVis and Stability: the same networks as the folder, or a sentence."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.guidance.families import FAMILIES
from ldp_fast.guidance.single_file import empty, family_of, translated

from ..support.compvis import clip_tensors, open_clip_tensors, unet_tensors, vae_tensors, write
from ..support.models import save_stable_diffusion, scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

L, XL = "cond_stage_model.transformer.", "conditioner.embedders.0.transformer."
H, G = "cond_stage_model.model.", "conditioner.embedders.1.model."


def tensors_of(prior: Any) -> dict[str, torch.Tensor]:
    return {**unet_tensors(prior.unet), **vae_tensors(prior.vae), **clip_tensors(prior.text_encoder, L)}


def load(path: pathlib.Path, **kwargs: Any) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_pretrained(str(path), device="cpu", guidance_scale=3.0, **kwargs)


def same(one: Any, other: Any) -> None:
    """The weights to the bit, and what is computed with them; where they lie in memory decides the last bit of it."""
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        states = [getattr(prior, name).state_dict() if getattr(prior, name) else {} for prior in (one, other)]
        assert states[0].keys() == states[1].keys() and all(torch.equal(t, states[1][k]) for k, t in states[0].items())
    v, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    words, others = one.encode_prompt("abc", "xyz"), other.encode_prompt("abc", "xyz")
    torch.testing.assert_close((words.text, words.uncond), (others.text, others.uncond))
    call: Any = {"timesteps": 300, "noise": noise}
    torch.testing.assert_close(one.gradient(v, words, **call)[0], other.gradient(v, others, **call)[0])
    torch.testing.assert_close(one.decode(v), other.decode(v))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd", prediction="v_prediction")


def test_the_file_of_a_folder_is_the_folder(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = load(folder)
    path = write(tmp_path / "model.safetensors", {**tensors_of(expected), "model_ema.decay": torch.ones(())})
    prior = load(path, config=str(folder))
    same(prior, expected)
    assert prior.scheduler.config.prediction_type == "v_prediction"
    assert not any(p.requires_grad for p in prior.unet.parameters())
    assert load(path, config=str(folder), dtype=torch.bfloat16).dtype == torch.bfloat16
    half = load(path, config=str(folder), dtype=torch.float16)
    # The VAE's configuration says force_upcast.
    assert half.dtype == torch.float16 and next(half.vae.parameters()).dtype == torch.float32
    path.unlink()
    same(prior, expected)


def test_a_file_needs_no_vocabulary(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Neither the folder nor the file has any; its text encoder has a row for each word of the package's."""
    from transformers import CLIPTextConfig, CLIPTextModel

    whole = load(folder)
    shutil.copytree(folder, tmp_path / "config", ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "config" / "text_encoder" / "config.json").unlink()
    small = whole.text_encoder.config.to_dict()
    config = CLIPTextConfig(**{**small, "vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407})
    encoder = CLIPTextModel(config).eval()
    config.save_pretrained(tmp_path / "config" / "text_encoder")
    (tmp_path / "config" / "model_index.json").write_text(json.dumps(index))
    tensors = {**tensors_of(whole), **clip_tensors(encoder, L)}
    prior = load(write(tmp_path / "model.safetensors", tensors), config=str(tmp_path / "config"))
    ids = torch.tensor([[49406, 320, 1125, 539, 320, 2368, *[49407] * 10]])
    with torch.no_grad():
        expected = encoder(ids)[0]
    torch.testing.assert_close(prior.encode_prompt("a photo of a cat").text, expected)
    with pytest.raises(UsageError, match="expected a vocabulary of 64 tokens, as text_encoder has, in tokenizer"):
        shutil.copy(folder / "text_encoder" / "config.json", tmp_path / "config" / "text_encoder")
        load(write(tmp_path / "other.safetensors", tensors_of(whole)), config=str(tmp_path / "config"))


def test_open_clip_and_early_names_of_clip(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    expected = load(folder)
    tensors = {k: t for k, t in tensors_of(expected).items() if not k.startswith(L)}
    two = write(tmp_path / "two.safetensors", {**tensors, **open_clip_tensors(expected.text_encoder, H)})
    same(load(two, config=str(folder)), expected)
    early = {k.replace("text_model.", ""): t for k, t in clip_tensors(expected.text_encoder, L).items()}
    merged = write(tmp_path / "merged.safetensors", {**tensors, **early, f"{L}logit_scale": torch.ones(())})
    same(load(merged, config=str(folder)), expected)


def test_sdxl(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "xl"
    parts: dict[str, Any] = {
        "unet": tiny_unet(sdxl=True),
        "vae": tiny_vae(),
        "scheduler": scheduler(),
        "text_encoder": tiny_text_encoder(),
        "text_encoder_2": tiny_text_encoder(projection=True),
    }
    for number in ("", "_2"):
        parts[f"tokenizer{number}"] = tiny_tokenizer(folder / f"tokenizer{number}")
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionXLPipeline", **index}))
    tensors = {
        **unet_tensors(parts["unet"]),
        **vae_tensors(parts["vae"]),
        **clip_tensors(parts["text_encoder"], XL),
        **open_clip_tensors(parts["text_encoder_2"], G),
    }
    prior, expected = load(write(tmp_path / "xl.safetensors", tensors), config=str(folder)), load(folder)
    same(prior, expected)
    torch.testing.assert_close(prior.encode_prompt("abc").pooled, expected.encode_prompt("abc").pooled)


def test_what_is_missing_left_over_or_of_another_shape_is_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    tensors = tensors_of(load(folder))
    unet = "model.diffusion_model."

    def refused(message: str, change: Any) -> None:
        with pytest.raises(UsageError, match=message) as raised:
            load(write(tmp_path / "broken.safetensors", change), config=str(folder))
        assert "\n" not in str(raised.value)

    without = {k: t for k, t in tensors.items() if k != f"{unet}input_blocks.1.0.in_layers.2.weight"}
    refused(r"the unet of .*: 1 missing \(down_blocks\.0\.resnets\.0\.conv1\.weight\)", without)
    refused(
        r"of the vae of .*1 unexpected \(first_stage_model\.loss\.weight\)",
        {**tensors, "first_stage_model.loss.weight": torch.ones(2)},
    )
    refused(r"of the unet of .*input_blocks\.1\.2\.x", {**tensors, f"{unet}input_blocks.1.2.x": torch.ones(2)})
    refused(
        r"the unet of .*1 of another shape \(conv_in\.weight is \[8, 5, 3, 3\] where \[8, 4, 3, 3\] was expected\)",
        {**tensors, f"{unet}input_blocks.0.0.weight": torch.ones(8, 5, 3, 3)},
    )
    bias = f"{L}text_model.final_layer_norm.bias"
    refused(r"the text_encoder of .*missing", {k: t for k, t in tensors.items() if k != bias})
    refused("under first_stage_model", {k: t for k, t in tensors.items() if not k.startswith("first_stage_model.")})
    refused("expected a whole model", {"down_blocks.0.weight": torch.ones(1)})


def test_families_are_told_apart_and_others_refused() -> None:
    unet = "model.diffusion_model."
    one = {f"{unet}input_blocks.0.0.weight": torch.empty(320, 4, 3, 3)}
    two = {**one, f"{unet}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": torch.empty(320, 1024)}
    xl = {**one, f"{G}transformer.resblocks.9.mlp.c_proj.bias": torch.empty(1280)}
    assert family_of("x", one, {}, None) is FAMILIES["sd1"]
    assert family_of("x", one, {"modelspec.prediction_type": "v"}, None) is FAMILIES["sd1-v"]
    assert family_of("x", xl, {}, None) is FAMILIES["sdxl"]
    assert family_of("x", {**xl, "v_pred": torch.empty(0)}, {}, None) is FAMILIES["sdxl-v"]
    zero = family_of("x", {**xl, "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}, {}, None)
    assert zero.configs["scheduler"] == {**FAMILIES["sdxl-v"].configs["scheduler"], "rescale_betas_zero_snr": True}
    with pytest.raises(UsageError, match=r"config: expected sd2-base .* or sd2-v"):
        family_of("x", two, {}, None)
    assert family_of("x", two, {}, "sd2-v") is FAMILIES["sd2-v"]
    assert family_of("x", two, {"modelspec.prediction_type": "epsilon"}, None) is FAMILIES["sd2-base"]
    with pytest.raises(UsageError, match="config: expected sdxl or sdxl-v"):
        family_of("x", xl, {}, "sd1")
    with pytest.raises(UsageError, match=r"config: expected one of sd1, .* or a folder"):
        family_of("x", one, {}, "/nowhere")
    inpainting = {f"{unet}input_blocks.0.0.weight": torch.empty(320, 9, 3, 3)}
    refiner = {**one, "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": torch.empty(1280)}
    flux = {f"{unet}double_blocks.0.img_attn.norm.key_norm.scale": torch.empty(1)}
    sd3 = {f"{unet}joint_blocks.37.x_block.mlp.fc1.weight": torch.empty(1)}
    for tensors, kind in ((inpainting, "inpainting"), (refiner, "xl_refiner"), (flux, "flux"), (sd3, "sd3")):
        # Earlier diffusers do not know the later kinds.
        with pytest.raises(UsageError, match=f"diffusers says it is '{kind}|it is not one of these"):
            family_of("x", tensors, {}, None)


PUBLISHED = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2-base": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "text_encoder": 123_060_480, "text_encoder_2": 694_659_840},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_our_configurations_are_the_published_models(name: str) -> None:
    """As many weights as they have, and the file's names come out as the classes' own, with the classes' shapes."""
    family = FAMILIES[name]
    marks = {
        "sd1": {"model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1)},
        "sd2-base": {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024)},
        "sdxl": {"model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight": (1280, 2048)},
    }
    for part, count in PUBLISHED[name].items():
        model = empty(family, part)
        assert sum(p.numel() for p in model.parameters()) == count
        if part.startswith("text"):
            names = clip_tensors(model, L) if model.config.hidden_size == 768 else open_clip_tensors(model, G)
            if name == "sd2-base":
                # The file has the whole encoder, of which the model uses all but the last layer.
                names = {H + key.removeprefix(G): tensor for key, tensor in names.items()}
                last = {k.replace(".22.", ".23."): t for k, t in names.items() if ".resblocks.22." in k}
                names |= {**last, f"{H}text_projection": torch.empty(1024, 1024, device="meta")}
        else:
            names = (unet_tensors if part == "unet" else vae_tensors)(model)
        # One byte each, seen in the full shape: enough to be told apart.
        tensors = {k: torch.zeros((), dtype=torch.bool).expand(t.shape) for k, t in names.items()}
        if part == "unet":
            assert all(tuple(tensors[key].shape) == shape for key, shape in marks[name].items())
        state = translated("it", part, model, tensors)
        assert {k: t.shape for k, t in state.items()} == {k: t.shape for k, t in model.state_dict().items()}
    xl = name == "sdxl"
    assert family.configs["vae"].get("scaling_factor", 0.18215) == (0.13025 if xl else 0.18215)
    vae = empty(family, "vae")
    assert vae.config.force_upcast and family.configs["scheduler"]["prediction_type"] == "epsilon"


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt"])
def test_pickles_are_refused_unread(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80")
    with pytest.raises(UsageError, match=r"expected a \.safetensors file.*convert it"):
        load(tmp_path / name)


def test_paths_and_arguments_that_do_not_fit(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        LatentDiffusionPrior.from_pretrained("models/none.safetensors")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no weights")
    with pytest.raises(UsageError, match="could not load"):
        load(broken)
    with pytest.raises(UsageError, match="config: expected only with a path to one file"):
        load(folder, config="sd1")
    with pytest.raises(UsageError, match="tokenizer: expected only with a path to one file"):
        load(folder, tokenizer="x")
    with pytest.raises(UsageError, match="variant: expected only with a folder"):
        load(broken, variant="fp16")
