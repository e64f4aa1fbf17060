"""Nothing of a model is missing, left over or another's: every fault of a folder is a sentence that names it."""

from __future__ import annotations

import json
import logging
import pathlib
import shutil
import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldp_fast.errors import UsageError, reason
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.guidance.components import reading
from ldp_fast.guidance.loading import ZOO, components_of

from ..support.models import save_stable_diffusion, scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture
def folder(saved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(saved, tmp_path / "sd")


def load(folder: pathlib.Path, **kwargs: Any) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_pretrained(str(folder), device="cpu", **kwargs)


def refused(folder: pathlib.Path, message: str, **kwargs: Any) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        load(folder, **kwargs)
    assert "\n" not in str(raised.value)


def change(folder: pathlib.Path, part: str, how: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = folder / part / f"{WEIGHTS[part]}.safetensors"
    tensors = load_file(path)
    how(tensors)
    save_file({k: t.clone() for k, t in tensors.items()}, path, metadata={"format": "pt"})


def reindex(folder: pathlib.Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_the_embedded_text_encoder_has_the_names_every_transformers_reads() -> None:
    """Before 5.6 the modules are called text_model.…; a later one takes that off."""
    names = load_file(ZOO / "primitives" / "text_encoder" / "model.safetensors")
    assert names and all(name.startswith("text_model.") for name in names)
    one, two = (LatentDiffusionPrior.from_pretrained("primitives", device="cpu") for _ in range(2))
    assert torch.equal(one.encode_prompt("a red cube").text, two.encode_prompt("a red cube").text)


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_that_are_missing_left_over_or_of_another_shape(folder: pathlib.Path, part: str) -> None:
    first: list[str] = []
    change(folder, part, lambda tensors: first.extend(sorted(tensors)[:5]) or [tensors.pop(k) for k in first])
    refused(folder, rf"the {part} of '.*': 5 missing \(.*{first[0].removeprefix('text_model.')}.*, and 2 more\)")
    change(folder, part, lambda tensors: tensors.update({"junk.weight": torch.ones(2)}))
    refused(folder, rf"{part} of .*5 missing .*; 1 unexpected \(.*junk\.weight\)")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_weight_of_another_shape(folder: pathlib.Path, part: str) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        name = next(key for key in sorted(tensors) if key.endswith("bias"))
        tensors[name] = torch.zeros(3)

    change(folder, part, shorten)
    refused(folder, rf"the {part} of .*1 of another shape \(.*bias(\)$| is \[3\] where \[\d+\] was expected\))")


def test_what_older_versions_saved_is_no_fault(folder: pathlib.Path) -> None:
    """Stable Diffusion 1.5's own text encoder carries the buffer `position_ids`."""
    expected = load(folder).encode_prompt("abc").text
    prefixed = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    change(folder, "text_encoder", lambda tensors: tensors.update(prefixed))
    torch.testing.assert_close(load(folder).encode_prompt("abc").text, expected)


@pytest.mark.parametrize("lost", [("vocab.json", "merges.txt", "tokenizer.json"), ("merges.txt", "tokenizer.json")])
def test_a_tokenizer_without_its_words(folder: pathlib.Path, lost: tuple[str, ...]) -> None:
    for name in lost:
        (folder / "tokenizer" / name).unlink(missing_ok=True)
    refused(folder, r"expected tokenizer\.json, or vocab\.json and merges\.txt, in the tokenizer of .* is not there")
    shutil.rmtree(folder / "tokenizer")
    refused(folder, "expected a folder for the tokenizer of")


def test_a_tokenizer_of_another_model(folder: pathlib.Path) -> None:
    words = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    shutil.rmtree(folder / "tokenizer")
    tiny_tokenizer(folder / "tokenizer")
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({**words, "ab</w>": len(words)}))
    refused(folder, r"expected a vocabulary of 64 tokens, as text_encoder has, in tokenizer of .*; got 65")


def variant(folder: pathlib.Path, name: str, *, keep: bool = False, parts: tuple[str, ...] = tuple(WEIGHTS)) -> None:
    """Half-precision weights under the variant's name, in place of the plain ones or beside them."""
    for part in parts:
        plain = folder / part / f"{WEIGHTS[part]}.safetensors"
        halves = {k: t.half() * (2 if keep else 1) for k, t in load_file(plain).items()}
        save_file(halves, plain.with_name(f"{WEIGHTS[part]}.{name}.safetensors"), metadata={"format": "pt"})
        if not keep:
            plain.unlink()


def test_the_only_variant_is_loaded_and_said(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = load(folder).unet.conv_in.weight
    variant(folder, "fp16")
    with caplog.at_level(logging.WARNING, logger="ldp_fast"):
        prior = load(folder)
    assert torch.equal(prior.unet.conv_in.weight, expected.half().float()) and prior.dtype == torch.float32
    assert sum("the unet of" in r.message and "'fp16'" in r.message for r in caplog.records) == 1
    refused(folder, "variant: expected one of fp16, which .* has, got 'bf16'", variant="bf16")
    variant_of_two = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    shutil.copy(variant_of_two, variant_of_two.with_name("diffusion_pytorch_model.ema.safetensors"))
    refused(folder, "variant: expected one of ema, fp16, which the unet of")


def test_the_variant_that_is_asked_for(folder: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    variant(folder, "fp16", keep=True, parts=("unet",))
    plain, chosen = load(folder), load(folder, variant="fp16")
    assert torch.equal(chosen.unet.conv_in.weight, (plain.unet.conv_in.weight.half() * 2).float())
    # The VAE has none of that name: its plain weights are taken, and that is said.
    assert torch.equal(chosen.vae.decoder.conv_in.weight, plain.vae.decoder.conv_in.weight)
    assert any("the vae of" in r.message and "plain" in r.message for r in caplog.records)


FOREIGN = {
    "StableDiffusion3Pipeline": {"transformer": ["diffusers", "SD3Transformer2DModel"]},
    "FluxPipeline": {"transformer": ["diffusers", "FluxTransformer2DModel"]},
    "PixArtSigmaPipeline": {"transformer": ["diffusers", "PixArtTransformer2DModel"]},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_kinds_are_refused_before_anything_is_loaded(folder: pathlib.Path, kind: str) -> None:
    reindex(
        folder, _class_name=kind, unet=[None, None], text_encoder_3=["transformers", "T5EncoderModel"], **FOREIGN[kind]
    )
    for part in ("text_encoder", "vae"):
        (folder / part / f"{WEIGHTS[part]}.safetensors").write_bytes(b"never read")
    refused(folder, rf"has no unet in its model_index\.json: expected .*, got {kind}")


def test_other_unets_and_components_are_refused_before_anything_is_loaded(folder: pathlib.Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    reindex(folder, _class_name="TextToVideoSDPipeline", unet=["diffusers", "UNet3DConditionModel"])
    refused(folder, r"expected a UNet2DConditionModel in .*; got UNet3DConditionModel \(TextToVideoSDPipeline\)")
    reindex(folder, unet=["diffusers", "UNet2DConditionModel"], text_encoder=["kolors", "ChatGLMModel"])
    refused(folder, r"expected components of diffusers and transformers in .*, got kolors\.ChatGLMModel")


def test_sdxl_without_its_second_encoder(folder: pathlib.Path) -> None:
    tiny_unet(sdxl=True).save_pretrained(folder / "unet")
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"never read")
    refused(folder, r"has no tokenizer_2, text_encoder_2 in its model_index\.json")
    reindex(folder, text_encoder_2=[None, None], tokenizer_2=["transformers", "CLIPTokenizer"])
    refused(folder, r"has no text_encoder_2 in its model_index\.json; its UNet is of SDXL's kind")


def test_the_judge_of_retrieval_is_whole_too(tmp_path: pathlib.Path) -> None:
    from ldp_fast.metrics import ClipScorer

    folder = shutil.copytree(ZOO / "primitives", tmp_path / "model", ignore=shutil.ignore_patterns("unet", "vae"))
    path = folder / "clip" / "model.safetensors"
    tensors = load_file(path)
    del tensors["visual_projection.weight"]
    save_file({k: t.clone() for k, t in tensors.items()}, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"the CLIP of '.*': 1 missing \(visual_projection\.weight\)"):
        ClipScorer.from_pretrained(str(folder))


def test_without_a_network_the_hub_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers import DiffusionPipeline

    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("We couldn't connect to the hub.\nMore lines.")

    monkeypatch.setattr(DiffusionPipeline, "load_config", offline)
    with pytest.raises(UsageError) as raised:
        LatentDiffusionPrior.from_pretrained("owner/name")
    assert str(raised.value) == (
        "model: could not load 'owner/name' (from the hub; without a network, give a folder): "
        "We couldn't connect to the hub."
    )


class Pipe:
    """What `components_of` reads of a pipeline."""

    def __init__(self) -> None:
        self.unet, self.vae, self.scheduler = tiny_unet(), tiny_vae(), scheduler()
        self.text_encoder = tiny_text_encoder()


def test_offloaded_pipelines_are_refused_when_the_prior_is_made() -> None:
    from accelerate import cpu_offload, cpu_offload_with_hook
    from accelerate.hooks import ModelHook, add_hook_to_module

    assert components_of(Pipe())["unet"] is not None
    pipe = Pipe()
    # As enable_model_cpu_offload does, and beside a hook of somebody else's.
    add_hook_to_module(pipe.vae, ModelHook())
    cpu_offload_with_hook(pipe.vae, "cpu")
    with pytest.raises(UsageError, match=r"the vae of this Pipe is offloaded \(enable_model_cpu_offload\)"):
        LatentDiffusionPrior.from_pipe(pipe)
    pipe = Pipe()
    cpu_offload(pipe.text_encoder, "cpu")
    with pytest.raises(UsageError, match=r"the text_encoder of .* \(enable_sequential_cpu_offload\)"):
        LatentDiffusionPrior.from_pipe(pipe)


@pytest.mark.parametrize(
    "how", [{"offload_type": "leaf_level"}, {"offload_type": "block_level", "num_blocks_per_group": 1}]
)
def test_group_offload_is_refused_too(how: dict[str, Any]) -> None:
    hooks = pytest.importorskip("diffusers.hooks", reason="this diffusers has no group offload")
    pipe = Pipe()
    try:
        hooks.apply_group_offloading(pipe.unet, torch.device("cpu"), torch.device("cpu"), **how)
    except AttributeError:
        pytest.skip("this diffusers cannot offload groups without an accelerator")
    with pytest.raises(UsageError, match=r"the unet of this Pipe is offloaded \(enable_group_offload\)"):
        LatentDiffusionPrior.from_pipe(pipe)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 492265879\n"


@pytest.mark.parametrize("content", [POINTER, b"", b"\x80\x02garbage"], ids=["git-lfs", "empty", "garbage"])
@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_files_that_are_no_weights(folder: pathlib.Path, part: str, suffix: str, content: bytes) -> None:
    (folder / part / f"{WEIGHTS[part]}.safetensors").unlink()
    name = "pytorch_model" if part == "text_encoder" and suffix == "bin" else WEIGHTS[part]
    (folder / part / f"{name}.{suffix}").write_bytes(content)
    refused(folder, f"model: could not load the {part} of '")


def edited(path: pathlib.Path, **entries: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.mark.parametrize(
    ("file", "entries", "message"),
    [
        ("tokenizer/tokenizer.json", {"pre_tokenizer": {"type": "FromTheFuture"}}, "the tokenizer of '.*': .+"),
        ("text_encoder/config.json", {"hidden_act": "future_act"}, "the text_encoder of '.*future_act"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "the text_encoder of '.*': .+"),
        ("unet/config.json", {"down_block_types": ["FromTheFuture"] * 2}, "the unet of '.*FromTheFuture"),
    ],
    ids=range(4),
)
def test_what_other_versions_wrote(folder: pathlib.Path, file: str, entries: dict[str, Any], message: str) -> None:
    if not (folder / file).is_file():
        pytest.skip("this transformers writes no tokenizer.json")
    edited(folder / file, **entries)
    refused(folder, f"model: could not load {message}")


@pytest.mark.parametrize("content", ["{", "[3]", "\udcff"])
def test_notes_that_cannot_be_read(folder: pathlib.Path, content: str) -> None:
    (folder / "ldp_fast.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(folder, r"could not load ldp_fast\.json of '")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (
            RuntimeError("Error(s) in loading state_dict for X:\n\tsize mismatch for w: a\n\tanother"),
            "Error(s) in loading state_dict for X: size mismatch for w: a",
        ),
        (RuntimeError("Outer:\nInner:\ncause\nrest"), "Outer: Inner: cause"),
        (KeyError("weight_map"), "KeyError: 'weight_map'"),
        (ValueError("\n  first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("ends:"), "ends:"),
        (ValueError("x" * 1000), "x" * 399 + "…"),
        (RuntimeError("\n".join(["heading:"] * 50)), " ".join(["heading:"] * 5)),
        (OSError(36, "File name too long", "m" * 300), f"File name too long: '{'m' * 59}…'"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
    ],
    ids=range(11),
)
def test_the_reason_of_an_error(error: Exception, expected: str) -> None:
    assert reason(error) == expected


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        OSError(12, "Cannot allocate memory"),
        ModuleNotFoundError("No module named 'diffusers'", name="diffusers"),
        NameError("a fault of ours"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_fault_of_a_model_stays_what_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, reading("model", "x", "y"):
        raise error
    assert raised.value is error
