"""LoRA files beside a model: W + weight·(alpha/r)·B·A in float64, and every weight of a file has to find its layer."""

from __future__ import annotations

import importlib.util
import pathlib
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior

from ..support.models import TEXT_WIDTH, save_stable_diffusion

needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
RANK, ATTENTION = 2, "down_blocks.0.attentions.0.transformer_blocks.0"
LAYERS = {
    "unet": (
        f"{ATTENTION}.attn1.to_q",
        f"{ATTENTION}.attn2.to_v",
        f"{ATTENTION}.ff.net.2",
        "mid_block.resnets.0.conv1",
    ),
    # diffusers knows kohya's names by the one of the output's projection.
    "text_encoder": (
        "encoder.layers.1.self_attn.q_proj",
        "encoder.layers.1.self_attn.out_proj",
        "encoder.layers.0.mlp.fc1",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


def load(folder: pathlib.Path, **kwargs: Any) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_pretrained(str(folder), device="cpu", **kwargs)


def layer_of(prior: LatentDiffusionPrior, target: str, layer: str) -> Any:
    model: Any = getattr(prior, target)
    return getattr(model, "text_model", model).get_submodule(layer) if target != "unet" else model.get_submodule(layer)


def factors(prior: LatentDiffusionPrior, seed: int, targets: tuple[str, ...]) -> dict[tuple[str, str], Any]:
    """A and B of every layer: matrices, or convolutions of which B is 1×1."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for target in targets:
        for layer in LAYERS[target]:
            weight = layer_of(prior, target, layer).weight
            b = torch.randn(weight.shape[0], RANK, *(1,) * (weight.ndim - 2), generator=generator) * 0.3
            made[target, layer] = torch.randn(RANK, *weight.shape[1:], generator=generator) * 0.3, b
    return made


def save(path: pathlib.Path, made: dict[tuple[str, str], Any], form: str, alpha: float = RANK) -> pathlib.Path:
    """As peft names weights, as diffusers did before it, and as kohya's trainer does, with its alpha."""
    tensors = {}
    for (target, layer), (a, b) in made.items():
        inner = layer if target == "unet" else f"text_model.{layer}"
        if form == "kohya":
            name = f"lora_{'unet' if target == 'unet' else 'te'}_{inner.replace('.', '_')}"
            tensors |= {
                f"{name}.lora_down.weight": a,
                f"{name}.lora_up.weight": b,
                f"{name}.alpha": torch.tensor(alpha),
            }
        elif form == "old" and ".attn" in layer:
            block, which = inner.rsplit(".", 1)
            tensors |= {f"{target}.{block}.processor.{which}_lora.{w}.weight": t for w, t in (("down", a), ("up", b))}
        elif form == "old":
            tensors |= {f"{target}.{inner}.lora.{w}.weight": t for w, t in (("down", a), ("up", b))}
        else:
            tensors |= {f"{target}.{inner}.lora_{w}.weight": t for w, t in (("A", a), ("B", b))}
    save_file(tensors, path)
    return path


def add(prior: LatentDiffusionPrior, made: dict[tuple[str, str], Any], scale: float) -> None:
    """W + scale·B·A, in the precision that the prior has."""
    for (target, layer), (a, b) in made.items():
        weight = layer_of(prior, target, layer).weight
        product = b.double().flatten(1) @ a.double().flatten(1)
        weight.data += (scale * product).reshape(weight.shape).to(weight.dtype)


def unet_output(prior: LatentDiffusionPrior, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    z, text = (torch.randn(*s, generator=generator).to(dtype) for s in ((2, 4, 8, 8), (2, 5, TEXT_WIDTH)))
    with torch.no_grad():
        return prior.unet.to(dtype)(z, torch.tensor([100, 700]), encoder_hidden_states=text).sample


@needs_peft
@pytest.mark.parametrize(("form", "alpha"), [("peft", RANK), ("old", RANK), ("kohya", 0.5)])
def test_the_unet_is_that_of_w_plus_scaled_ba(
    folder: pathlib.Path, tmp_path: pathlib.Path, form: str, alpha: float
) -> None:
    exact = load(folder)
    exact.unet.double()
    made = factors(exact, 1, ("unet",))
    path = save(tmp_path / "one.safetensors", made, form, alpha)
    prior = load(folder, lora=[(path, 0.7)])
    plain = load(folder)
    add(exact, made, 0.7 * alpha / RANK)
    expected = unet_output(exact, torch.float64)
    error = (unet_output(prior, torch.float32) - expected).norm() / expected.norm()
    moved = (unet_output(plain, torch.float32) - expected).norm() / expected.norm()
    assert error < 3e-6 and moved > 0.05
    # What runs is the plain network: no adapter and no trainable weight is left on it.
    assert {type(m) for m in prior.unet.modules()} == {type(m) for m in plain.unet.modules()}
    assert prior.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert not any(p.requires_grad for p in prior.unet.parameters()) and not hasattr(prior.unet, "peft_config")


@needs_peft
@pytest.mark.parametrize("form", ["peft", "kohya"])
def test_text_encoder_and_two_files(folder: pathlib.Path, tmp_path: pathlib.Path, form: str) -> None:
    exact = load(folder)
    exact.unet.double(), exact.text_encoder.double()
    both, unet = factors(exact, 1, ("unet", "text_encoder")), factors(exact, 2, ("unet",))
    (tmp_path / "two").mkdir()
    save(tmp_path / "two" / "pytorch_lora_weights.safetensors", unet, "peft")
    prior = load(folder, lora=[str(save(tmp_path / "one.safetensors", both, form)), (tmp_path / "two", -0.5)])
    add(exact, both, 1.0)
    add(exact, unet, -0.5)
    expected = unet_output(exact, torch.float64)
    assert (unet_output(prior, torch.float32) - expected).norm() < 3e-6 * expected.norm()
    for layer in LAYERS["text_encoder"]:
        weight = layer_of(exact, "text_encoder", layer).weight
        assert (layer_of(prior, "text_encoder", layer).weight - weight).norm() < 1e-7 * weight.norm()
    text = load(folder).encode_prompt("abc").text
    assert (prior.encode_prompt("abc").text - text).norm() > 0.05 * text.norm()


@needs_peft
def test_half_precision_is_rounded_once(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    exact = load(folder, dtype=torch.bfloat16)
    exact.unet.double()
    # Powers of two: the factors themselves are exact in bfloat16.
    made = {key: tuple(torch.sign(t) * 0.25 for t in ab) for key, ab in factors(exact, 1, ("unet",)).items()}
    prior = load(folder, dtype=torch.bfloat16, lora=[(save(tmp_path / "one.safetensors", made, "peft"), 0.5)])
    add(exact, made, 0.5)
    for layer in LAYERS["unet"]:
        weight = layer_of(prior, "unet", layer).weight
        assert weight.dtype == torch.bfloat16
        torch.testing.assert_close(weight, layer_of(exact, "unet", layer).weight.bfloat16(), rtol=0, atol=0)


@needs_peft
def test_weights_that_find_no_layer_are_named(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path, made = tmp_path / "wrong.safetensors", factors(load(folder), 1, ("unet",))

    def refused(message: str) -> None:
        with pytest.raises(UsageError, match=message) as raised:
            load(folder, lora=[path])
        assert "\n" not in str(raised.value)

    a, b = made["unet", LAYERS["unet"][0]]
    for name in ("unet.mid_block.nowhere", "text_encoder_2.layers.0", "transformer.blocks.0"):
        save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, path)
        refused(rf"lora: .*wrong\.safetensors has 2 weights for layers that this model does not have: {name}\.lora_A")
    good = {f"unet.{LAYERS['unet'][0]}.lora_A.weight": a, f"unet.{LAYERS['unet'][0]}.lora_B.weight": b}
    save_file({**good, f"unet.{LAYERS['unet'][0]}.hada_w1_a": a.clone()}, path)
    refused("has 1 weights for layers .*hada_w1_a")
    save_file(
        {f"unet.{LAYERS['unet'][0]}.lora_A.weight": a[:, :3].clone(), **{k: t for k, t in good.items() if "_B" in k}},
        path,
    )
    refused("lora: could not use .*size mismatch.*lora_A")
    save_file({"lora_unet_mid_block_x.hada_w1_a": a}, path)
    refused("lora: could not use .*lora_unet_mid_block_x.hada_w1_a")
    save_file({**good, f"unet.{LAYERS['unet'][0]}.dora_scale": torch.ones(8)}, path)
    refused("leaves out DoRA's .*dora_scale")
    path.write_bytes(b"no weights")
    refused("could not (use|load)")


def test_files_that_are_none(folder: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("peft") is None:
        with pytest.raises(UsageError, match="lora: expected the package peft"):
            load(folder, lora=["one.safetensors"])
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for lora, message in (
        ("one.safetensors", "lora: expected a list"),
        (["/nowhere.safetensors"], "there is no file /nowhere"),
        ([tmp_path], "there is no file .*pytorch_lora_weights"),
        ([(folder / "model_index.json", 1.0)], r"expected a \.safetensors file, got model_index\.json"),
        ([(tmp_path, "1")], "expected a number as the weight"),
    ):
        with pytest.raises(UsageError, match=message):
            load(folder, lora=lora)
