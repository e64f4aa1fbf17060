"""The baselines compute what ours computes: otherwise their times would say nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import bench_step, host_steps, limit, models
from benchmarks.baselines import FoldedDecoder, HookedDecoder, Problem, fold, naive_step, with_gradients
from benchmarks.timing import check_gradients
from ldp_fast.decoder import FrozenDecoder


@pytest.fixture(scope="module")
def tiny() -> models.Models:
    return models.load("tiny", "cpu")


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    v = models.sample_latents(6, "cpu")
    return v, v + 0.5 * models.sample_latents(6, "cpu", seed=5)


def test_naive_and_folded_feature_matching_are_the_frozen_decoders(
    tiny: models.Models, pair: tuple[Tensor, Tensor]
) -> None:
    expected = FrozenDecoder(tiny.vae, models.LEVELS).feature_matching(*pair)
    for decoder in (HookedDecoder(tiny.vae), FoldedDecoder(tiny.vae)):
        actual = with_gradients(decoder.loss)(*pair)
        for x, y in zip(actual, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [3, 4])
def test_the_fold_is_exact_with_zero_padding(size: int) -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
    x = torch.randn(2, 3, size, size + 1, dtype=torch.float64)
    expected = conv(nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))
    actual = nn.functional.conv_transpose2d(x, fold(conv.weight), stride=2, padding=1)
    torch.testing.assert_close(actual, expected)


def test_hooks_stay_off_the_model(tiny: models.Models) -> None:
    decoder = HookedDecoder(tiny.vae)
    assert not any(block._forward_hooks for block in tiny.vae.decoder.up_blocks)
    assert next(decoder.vae.parameters()) is next(tiny.vae.parameters())
    decoder.features(models.sample_latents(4, "cpu"))
    assert not decoder.found  # nothing of a pass outlives it


def ours(loaded: models.Models, problem: Problem, **settings: Any) -> Tensor:
    text = loaded.text.flip(0) if settings.get("order") == "text_first" else loaded.text
    prior = bench_step.make_prior(loaded, **settings)
    return prior.gradient(problem.latents, text, timesteps=problem.timestep, noise=problem.noise)[0]


def test_the_naive_step_is_ours(tiny: models.Models) -> None:
    problem = Problem.sample(8, "cpu")
    actual = naive_step(tiny, HookedDecoder(tiny.vae), problem, bench_step.WEIGHTS)
    torch.testing.assert_close(actual, ours(tiny, problem), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", host_steps.SETTINGS)
def test_the_hosts_steps_are_ours_under_their_settings(tiny: models.Models, way: str) -> None:
    problem = Problem.sample(8, "cpu")
    step = bench_step.gradient_function(way, tiny, "cpu", 8)
    torch.testing.assert_close(step(problem), ours(tiny, problem, **host_steps.SETTINGS[way]), rtol=1e-4, atol=1e-4)


def test_a_step_without_the_decoders_gradient_is_not_timed() -> None:
    gradient = bench_step.prepare("naive", "tiny", 8, "cpu")[0]()
    bench_step.check_decoders_part(gradient, "tiny", 8, "cpu")
    without = dataclasses.replace(bench_step.WEIGHTS, fm=0.0)
    tiny, problem = models.load("tiny", "cpu"), Problem.sample(8, "cpu")
    with pytest.raises(AssertionError, match="not timed"):
        gradient = naive_step(tiny, HookedDecoder(tiny.vae), problem, without)
        bench_step.check_decoders_part(gradient, "tiny", 8, "cpu")


def test_parts_are_those_of_the_step(tiny: models.Models) -> None:
    problem = Problem.sample(8, "cpu")
    whole, unet, decoder, arithmetic = (bench_step.part_function(p, tiny, problem)() for p in bench_step.PARTS)
    assert whole[0].shape == arithmetic[0].shape == decoder[1].shape == problem.latents.shape
    assert unet.sample.shape == (2, *problem.latents.shape[1:])


def test_the_limit_counts_every_convolution_once_and_the_folded_ones_cheaper(tiny: models.Models) -> None:
    found = limit.convolutions(tiny.vae, 4)
    decoder = tiny.vae.decoder
    stages = [tiny.vae.post_quant_conv, decoder.conv_in, decoder.mid_block, *decoder.up_blocks[:3]]
    assert len(found) == sum(isinstance(m, nn.Conv2d) for stage in stages for m in stage.modules())
    folded = [layer for layer in found if layer.folded]
    assert [layer.input_shape[2:] for layer in folded] == [(4, 4), (8, 8), (16, 16)]
    assert all(layer.output_shape[2] == 2 * layer.input_shape[2] for layer in folded)
    # 16 taps a small pixel in place of 9 taps for each of its four large ones.
    layer = folded[0]
    assert layer.multiplications == 2 * 4 * 4 * 16 * layer.weight.shape[0] * layer.weight.shape[1]


def test_the_limit_computes(tiny: models.Models) -> None:
    """Real numbers on real tensors: fake ones, which know shapes alone, would make a limit that nobody reaches."""
    results = limit.prepare(tiny.vae, 4, keep=True)()
    for layer, (output, grad) in zip(limit.convolutions(tiny.vae, 4), results, strict=True):
        assert type(layer.weight) is type(output) is type(grad) is Tensor
        assert output.shape == layer.output_shape and grad.shape == layer.input_shape
        assert output.std() > 0 and grad.std() > 0
    layer = limit.convolutions(tiny.vae, 4)[1]
    torch.testing.assert_close(layer.weight, tiny.vae.decoder.conv_in.weight)
    assert limit.prepare(tiny.vae, 4)() == []


def test_sd15_has_the_multiplications_that_are_known() -> None:
    """Of one sample's forward up to up2 at 64×64: 977 GMAC, of which folding saves 215 (../shared/performance.md)."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(**models._SD15_VAE)
    assert limit.multiply_accumulates(vae, 64) / 4 / 1e9 == pytest.approx(762.4, rel=1e-3)


def test_random_weights_keep_activations_in_range(tiny: models.Models) -> None:
    features = FrozenDecoder(tiny.vae, models.LEVELS).features(models.sample_latents(8, "cpu"))
    assert all(0.05 < x.std() < 50 for x in features)
    assert models.load("tiny", "cpu") is tiny  # made once
    with pytest.raises(ValueError, match=r"expected SD 1\.5, embedded or tiny, got 'large'"):
        models.load("large", "cpu")


def test_what_computes_something_else_is_not_timed() -> None:
    x = torch.randn(8)
    check_gradients([x], [x + 0.01])
    with pytest.raises(AssertionError, match="not timed: its result is not the naive one's"):
        check_gradients([torch.zeros(8)], [x])
