"""Text: the embeddings of the pipelines' own `encode_prompt` to the bit, what is cut off, and rows."""

from __future__ import annotations

import logging
import pathlib
from typing import Any

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings
from ldp_fast.guidance.inputs import rows_for

from ..support.models import TEXT_WIDTH, save_stable_diffusion, scheduler, tiny_text_encoder, tiny_unet, tiny_vae
from .pipelines import encoded, stable_diffusion, stable_diffusion_xl


def assert_as_the_pipeline(pipe: Any, prompt: Any, negative: Any = None, theirs: Any = None) -> TextEmbeddings:
    """`theirs` is the negative prompt in the pipeline's words, which wants a list where the prompts are one."""
    ours = LatentDiffusionPrior.from_pipe(pipe).encode_prompt(prompt, negative)
    expected = encoded(pipe, prompt, negative if theirs is None else theirs)
    actual = [x for x in (ours.text, ours.uncond, ours.pooled, ours.pooled_uncond) if x is not None]
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b), (prompt, negative)
    return ours


PROMPTS: list[tuple[Any, Any, Any]] = [
    ("abc xyz", None, None),
    ("abc xyz", "", None),
    ("abc", "bad", None),
    (["abc", "xyz q"], None, None),
    (["abc", "xyz q"], ["bad", "worse"], None),
    (["abc", "xyz q"], "bad", ["bad", "bad"]),
    ("abcdefg hijklmn opqrstu", "q" * 30, None),
]


@pytest.mark.parametrize("attention_mask", [False, True])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(tmp_path: pathlib.Path, prediction: str, attention_mask: bool) -> None:
    pipe = stable_diffusion(tmp_path, prediction=prediction)
    plain = LatentDiffusionPrior.from_pipe(pipe).encode_prompt("abc").text
    pipe.text_encoder.config.use_attention_mask = attention_mask
    for prompt in PROMPTS:
        assert_as_the_pipeline(pipe, *prompt)
    # Where it is asked for, the mask changes the embeddings.
    assert torch.equal(LatentDiffusionPrior.from_pipe(pipe).encode_prompt("abc").text, plain) is not attention_mask


@pytest.mark.parametrize("zeros", [True, False])
def test_sdxl(tmp_path: pathlib.Path, zeros: bool) -> None:
    pipe = stable_diffusion_xl(tmp_path, zeros=zeros)
    pipe.text_encoder.config.use_attention_mask = True  # which SDXL's pipeline does not read
    for prompt in PROMPTS:
        assert_as_the_pipeline(pipe, *prompt)
    default = assert_as_the_pipeline(pipe, "abc")
    assert (float(default.uncond.abs().sum()) == 0) is zeros
    assert float(assert_as_the_pipeline(pipe, "abc", "").uncond.abs().sum()) > 0


def test_sdxl_by_hand_and_from_a_folder(tmp_path: pathlib.Path) -> None:
    for zeros in (True, False):
        pipe = stable_diffusion_xl(tmp_path / "tokenizers", zeros=zeros)
        folder = tmp_path / str(zeros)
        pipe.save_pretrained(folder)
        loaded = LatentDiffusionPrior.from_pretrained(str(folder), device="cpu").encode_prompt("abc")
        expected = encoded(pipe, "abc")
        # Weights of a file lie elsewhere in memory than those of a module: products may round otherwise.
        torch.testing.assert_close([loaded.uncond, loaded.pooled_uncond], [expected[1], expected[3]])
    names = ("unet", "vae", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    made = LatentDiffusionPrior(**{name: getattr(pipe, name) for name in names}).encode_prompt("abc")
    assert float(made.uncond.abs().sum()) == 0  # the pipeline's own default


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl])
def test_half_precision_and_textual_inversion(tmp_path: pathlib.Path, make: Any) -> None:
    pipe = make(tmp_path)
    first = torch.randn(3, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))
    pipe.load_textual_inversion(first, token="<cat>", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    if make is stable_diffusion_xl:
        pipe.load_textual_inversion(first, token="<cat>", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)
    for half in (False, True):
        pipe = pipe.to(torch.bfloat16) if half else pipe
        several = assert_as_the_pipeline(pipe, "abc <cat> x", "<cat>")
        one = LatentDiffusionPrior.from_pipe(pipe).encode_prompt("abc x")
        assert several.text.dtype == one.text.dtype == (torch.bfloat16 if half else torch.float32)
        assert not torch.equal(several.text, one.text)
    ids = pipe.tokenizer(pipe.maybe_convert_prompt("abc <cat> x", pipe.tokenizer)).input_ids
    assert len(ids) == 2 + 4 + 3  # marks, letters, vectors


def test_what_is_cut_off_is_said_once(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    prior = LatentDiffusionPrior.from_pipe(stable_diffusion(tmp_path))
    with caplog.at_level(logging.WARNING):
        prior.encode_prompt("abcdefg hijklmn")  # 14 letters and two marks: all that there is room for
        assert not caplog.records
        for _ in range(2):
            prior.with_settings(lambda_kl=0.0).encode_prompt(["abcdefg hijklmn opq rst", "abc"], "n" * 15)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert all("takes 16 tokens" in line for line in said)
    assert said[0].endswith("cut off: opq rst") and said[1].endswith("cut off: n")


def test_the_embedded_model_says_what_it_cuts(caplog: pytest.LogCaptureFixture) -> None:
    prior = LatentDiffusionPrior.from_pretrained("primitives", device="cpu")
    words = "a red cube and a blue sphere and a green torus and a yellow cone and a white cylinder and a cyan cube"
    with caplog.at_level(logging.WARNING, "ldp_fast"):
        text = prior.encode_prompt(words)
    kept = " ".join(words.split()[:22])
    assert (
        caplog.records[0]
        .getMessage()
        .endswith(f"24 tokens, its marks of beginning and end among them; cut off: {words[len(kept) + 1 :]}")
    )
    assert torch.equal(text.text, prior.encode_prompt(kept).text)


@pytest.mark.parametrize("wrong", [None, 3, b"abc", ["abc", None], {"abc"}, torch.zeros(1)], ids=str)
def test_a_prompt_is_text(tmp_path: pathlib.Path, wrong: Any) -> None:
    prior = LatentDiffusionPrior.from_pipe(stable_diffusion(tmp_path))
    with pytest.raises(UsageError, match="prompt: expected a string, or a list or tuple of strings, got"):
        prior.encode_prompt(wrong)
    if wrong is not None:
        with pytest.raises(UsageError, match="negative_prompt: expected a string, or a list"):
            prior.encode_prompt("abc", wrong)


def test_tuples_of_prompts(tmp_path: pathlib.Path) -> None:
    prior = LatentDiffusionPrior.from_pipe(stable_diffusion(tmp_path))
    several, expected = prior.encode_prompt(("ab", "c"), ("x", "y")), prior.encode_prompt(["ab", "c"], ["x", "y"])
    assert torch.equal(several.text, expected.text) and torch.equal(several.uncond, expected.uncond)


def test_size_conditions_come_from_the_vae() -> None:
    """A VAE of two levels has two pixels a latent: SDXL is told so, as its pipeline tells it."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
    )
    told: dict[str, torch.Tensor] = {}
    for given, factor in ((vae, 2), (tiny_vae(), 8), (None, 8)):
        unet = tiny_unet(sdxl=True)
        unet.register_forward_pre_hook(lambda _m, _a, k: told.update(k["added_cond_kwargs"]), with_kwargs=True)
        prior = LatentDiffusionPrior(unet, given, scheduler(), settings=PriorSettings(0.0, guidance_scale=2.0))
        text = TextEmbeddings(*torch.randn(2, 1, 5, 2 * TEXT_WIDTH), *torch.randn(2, 1, TEXT_WIDTH))
        prior.gradient(torch.randn(3, 4, 8, 6), text)
        assert told["time_ids"].tolist() == [[8 * factor, 6 * factor, 0, 0, 8 * factor, 6 * factor]] * 6


def test_rows() -> None:
    one, two = torch.arange(2.0)[:, None, None], torch.arange(6.0)[:, None, None]
    assert rows_for(one, 2, 3).flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert rows_for(two, 2, 3) is two and rows_for(two, 6, 1) is two
    assert rows_for(two[:3], 1, 3).flatten().tolist() == [0, 1, 2]
    assert rows_for(one, 2, 0).shape == (0, 1, 1) and rows_for(one[:0], 2, 0).shape == (0, 1, 1)
    for copies, batch, rows in ((2, 3, 1), (2, 3, 3), (2, 3, 4), (2, 1, 1), (1, 3, 2), (3, 2, 2), (2, 0, 3)):
        with pytest.raises(ValueError, match=rf"{copies} or {copies * batch} rows for {batch} .*, got {rows};"):
            rows_for(two[:rows], copies, batch)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((torch.zeros(1, 154, 16), torch.zeros(1, 77, 16)), r"\[1, 154, 16\] and \[1, 77, 16\]"),
        ((torch.zeros(3, 77, 16), torch.zeros(1, 77, 16)), r"\[3, 77, 16\] and \[1, 77, 16\]"),
        ((torch.zeros(77, 16), torch.zeros(77, 16)), r"one shape \[P, L, D\]"),
        ((*torch.zeros(2, 1, 7, 6), torch.zeros(2, 3), torch.zeros(1, 3)), r"pooled of shape \[1, E\], got \[2, 3\]"),
        ((*torch.zeros(2, 1, 7, 6), torch.zeros(1, 3), torch.zeros(3)), r"pooled_uncond of shape \[1, E\], got \[3\]"),
    ],
    ids=range(5),
)
def test_embeddings_belong_together(parts: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEmbeddings(*parts)


def test_embeddings_are_tensors() -> None:
    text: Any = torch.zeros(1, 7, 6)
    for name, parts in {"uncond": (text, None), "text": ("abc", text), "pooled": (text, text, [0.0])}.items():
        with pytest.raises(TypeError, match=f"TextEmbeddings: expected {name} as a tensor, got"):
            TextEmbeddings(*parts)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": None}, TypeError, r"TextEmbeddings of prior.encode_prompt\(…\), or a tensor .*, got NoneType"),
        ({"text": "abc"}, TypeError, "encode_prompt.* got str"),
        ({"text": tuple(torch.zeros(2, 1, 5, TEXT_WIDTH))}, TypeError, "encode_prompt.* got tuple"),
        ({"text": torch.zeros(5, TEXT_WIDTH)}, ValueError, r"shape \[rows, L, D\], got \[5, 16\]"),
        ({"text": torch.zeros(2, 5, 7)}, ValueError, "the UNet's width 16, got 7"),
        ({"text": TextEmbeddings(*torch.zeros(2, 1, 5, 7))}, ValueError, "the UNet's width 16, got 7"),
        ({"text": torch.zeros(3, 5, TEXT_WIDTH)}, ValueError, "2 or 6 rows for 3 latents .* got 3"),
        ({"generator": [torch.Generator()] * 3}, TypeError, "one torch.Generator for all samples, or None, got list"),
        ({"progress": float("nan")}, ValueError, "progress: expected a number from 0 .* got nan"),
        ({"progress": "0"}, TypeError, "progress: expected a number from 0 .* got '0'"),
        ({"progress": None}, TypeError, "progress: expected a number from 0 .* got None"),
    ],
    ids=range(11),
)
def test_calls_are_refused_in_a_sentence(change: dict[str, Any], error: type[Exception], message: str) -> None:
    prior = LatentDiffusionPrior(tiny_unet(), None, scheduler(), settings=PriorSettings(0.0, guidance_scale=2.0))
    good: dict[str, Any] = {"latents": torch.zeros(3, 4, 8, 8), "text": torch.zeros(2, 5, TEXT_WIDTH)}
    for call in (prior, prior.gradient):
        with pytest.raises(error, match=message):
            call(**{**good, **change})
    made = {k: v for k, v in change.items() if k != "progress"}
    if made:
        with pytest.raises(error, match=message):
            prior.capture(**{**good, **made})
    if "generator" not in change and change.get("text", 0) is not None:
        with pytest.raises((TypeError, ValueError), match=r"text: |progress: "):
            prior.capture(**good)(**{**good, **change})


def test_sdxl_without_pooled_embeddings() -> None:
    prior = LatentDiffusionPrior(
        tiny_unet(sdxl=True), None, scheduler(), settings=PriorSettings(0.0, guidance_scale=2.0)
    )
    states = torch.zeros(2, 1, 5, 2 * TEXT_WIDTH)
    v = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"wants pooled embeddings too: .* got a Tensor without"):
        prior.gradient(v, states.flatten(0, 1))
    with pytest.raises(ValueError, match=r"wants pooled embeddings too: .* got a TextEmbeddings without"):
        prior.gradient(v, TextEmbeddings(*states))
    with pytest.raises(ValueError, match=r"text.pooled: .* width 16, got 9"):
        prior.gradient(v, TextEmbeddings(*states, *torch.zeros(2, 1, 9)))
    with pytest.raises(ValueError, match=r"width 16, got 24: it wants five numbers .*refiner"):
        prior.gradient(v, TextEmbeddings(*states, *torch.zeros(2, 1, 24)))
    prior.gradient(v, TextEmbeddings(*states, *torch.zeros(2, 1, TEXT_WIDTH)))


def test_embeddings_are_where_the_unet_is(tmp_path: pathlib.Path) -> None:
    """A text encoder may be on another device than the UNet, as the pipelines allow."""
    unet = tiny_unet().to("meta")
    prior = LatentDiffusionPrior(unet, None, scheduler(), stable_diffusion(tmp_path).tokenizer, tiny_text_encoder())
    assert prior.encode_prompt("abc").text.device.type == "meta"


def test_the_first_folder_has_no_second_rule(tmp_path: pathlib.Path) -> None:
    """Stable Diffusion's negative prompt of None is the empty prompt, whatever a configuration says of zeros."""
    prior = LatentDiffusionPrior.from_pretrained(str(save_stable_diffusion(tmp_path)), device="cpu")
    prior.notes["force_zeros_for_empty_prompt"] = True
    assert torch.equal(prior.encode_prompt("abc").uncond, prior.encode_prompt("abc", "").uncond)
