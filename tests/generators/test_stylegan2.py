"""The generator against the definitions, in float64, and what a generator has to do beside."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.generators import Settings, StyleGAN2, layers, usual_channels

from . import naive

SETTINGS = Settings(resolution=16, z_dim=5, w_dim=6, mapping_layers=3, channels=(4, 3, 2))


def made(settings: Settings = SETTINGS, dtype: torch.dtype = torch.float64) -> StyleGAN2:
    """A generator whose every number counts."""
    torch.manual_seed(1)
    generator = StyleGAN2(settings).to(dtype).requires_grad_(False)
    for name, x in generator.state_dict().items():
        if name.endswith(("bias", "noise_strength", "w_mean")):
            x.add_(torch.randn_like(x) * (30 if name.startswith("style") else 0.5))
    return generator


def drawn(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("clamp", [None, 0.8])
def test_pictures_are_those_of_the_definition(grouped: bool, clamp: float | None) -> None:
    generator = made(Settings(resolution=16, z_dim=5, w_dim=6, mapping_layers=3, channels=(4, 3, 2), clamp=clamp))
    generator.grouped = grouped
    z = drawn()
    weights, s = naive.weights_of(generator), generator.settings
    w = naive.mapped(weights, s, z.numpy(), 0.7)
    expected = [naive.synthesised(weights, s, np.stack([one] * s.layers)) for one in w]
    np.testing.assert_allclose(generator(z, truncation=0.7).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_each_w_reaches_its_layer() -> None:
    generator = made()
    weights = naive.weights_of(generator)
    w = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = [naive.synthesised(weights, generator.settings, one.numpy()) for one in w]
    np.testing.assert_allclose(generator.synthesis(w).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_layers_that_a_w_steers_come_in_the_order_of_the_picture() -> None:
    generator = made()
    names = ["conv1", "to_rgb1", "convs.0", "convs.1", "to_rgbs.0", "convs.2", "convs.3", "to_rgbs.1"]
    assert list(generator.styled()) == names
    assert all(generator.get_submodule(name) is layer for name, layer in generator.styled().items())


def test_noise_is_its_own_or_what_is_given_or_drawn_for_each_sample() -> None:
    generator = made()
    w = generator.mapping(drawn(2))
    sides = [4, 8, 8, 16, 16]
    given = [torch.randn(2, 1, side, side, dtype=torch.float64) for side in sides]
    weights = naive.weights_of(generator)
    for sample, picture in enumerate(generator.synthesis(w, given)):
        noises = [x[sample, 0].numpy() for x in given]
        expected = naive.synthesised(weights, generator.settings, w[sample].numpy(), noises)
        np.testing.assert_allclose(picture.numpy(), expected, rtol=1e-10, atol=1e-12)
    shared = generator.synthesis(w, [x[:1] for x in given])
    alone = generator.synthesis(w[:1], [x[:1] for x in given])
    torch.testing.assert_close(shared[:1], alone, rtol=1e-10, atol=1e-12)

    def fresh(*seeds: int) -> torch.Tensor:
        return generator.synthesis(w[: len(seeds)], [torch.Generator().manual_seed(seed) for seed in seeds])

    assert torch.allclose(fresh(4, 5)[0], fresh(4)[0], atol=1e-12)
    assert not torch.allclose(fresh(4), fresh(6))


def test_a_sample_does_not_depend_on_its_batch() -> None:
    generator, z = made(), drawn(4)
    one_by_one = torch.cat([generator(x[None]) for x in z])
    torch.testing.assert_close(generator(z), one_by_one, rtol=1e-10, atol=1e-12)


def test_truncation_goes_from_the_mean_to_w() -> None:
    generator, z = made(), drawn(2)
    w = generator.mapping(z)
    mean = generator.w_mean.expand_as(w)
    assert torch.equal(generator.mapping(z, 0.0), mean)
    torch.testing.assert_close(generator.mapping(z, 0.25), mean + 0.25 * (w - mean))
    assert list(w.shape) == [2, 6, 6]
    assert torch.equal(generator.synthesis(w[:, 0]), generator.synthesis(w))


def test_the_average_is_that_of_many_w() -> None:
    generator = made()
    found = generator.average(3000, seed=7).clone()
    w = generator.mapping(torch.randn(3000, 5, generator=torch.Generator().manual_seed(8)).double())[:, 0]
    error = w.std(0) / 3000**0.5
    assert bool(((found - w.mean(0)).abs() < 6 * error).all())
    assert torch.equal(generator.average(3000, seed=7), found)


def test_gradients_are_those_of_differences() -> None:
    generator = made(Settings(resolution=8, z_dim=2, w_dim=3, mapping_layers=1, channels=(2, 2)))
    w = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = generator.convs[0].weight.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda w, _: generator.synthesis(w), (w, weight), fast_mode=True)


def test_it_runs_under_autocast_and_in_channels_last() -> None:
    settings = Settings(resolution=32, z_dim=8, w_dim=16, mapping_layers=2, channels=usual_channels(32, 512, 32))
    generator = made(settings, torch.float32)
    w = generator.mapping(torch.randn(2, 8))
    exact = generator.synthesis(w)
    with torch.autocast("cpu", torch.bfloat16):
        rough = generator.synthesis(w)
    assert rough.dtype == torch.float32
    assert float((rough - exact).square().mean().sqrt() / exact.std()) < 0.03
    last = generator.to(memory_format=torch.channels_last).synthesis(w)
    torch.testing.assert_close(last, exact, rtol=1e-4, atol=1e-4 * float(exact.std()))


def test_large_styles_do_not_overflow_half_precision() -> None:
    settings = Settings(resolution=8, z_dim=8, w_dim=16, mapping_layers=2, channels=(16, 16), clamp=256.0)
    generator = made(settings, torch.float32)
    w = generator.mapping(torch.randn(2, 8)) * 1e4
    with torch.autocast("cpu", torch.float16):
        assert bool(generator.convs[0](torch.randn(2, 16, 4, 4), w[:, 1], torch.zeros(1, 1, 8, 8)).isfinite().all())


def test_mapping_and_norms_are_those_of_float32_under_autocast() -> None:
    settings = Settings(resolution=8, z_dim=8, w_dim=16, mapping_layers=4, channels=(16, 16))
    generator, z = made(settings, torch.float32), torch.randn(3, 8)
    exact, mean = generator.mapping(z, 0.7), generator.average(64).clone()
    again = generator.mapping(z, 0.7)
    weight, style = torch.randn(16, 16, 3, 3), 100 * torch.randn(3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.average(64), mean)
        assert torch.equal(generator.mapping(z, 0.7), again) and not torch.equal(again, exact)
        scaled, norms = layers.demodulation(weight, style)
    assert norms.dtype == scaled.dtype == torch.float32
    largest = style.abs().amax(1, keepdim=True)
    torch.testing.assert_close(scaled, style / largest)
    assert float(scaled.abs().max()) == 1
    whole = (weight.double() * style.double()[:, None, :, None, None]).square().sum((2, 3, 4))
    torch.testing.assert_close(norms.double() / largest, (whole + 1e-8).rsqrt(), rtol=1e-6, atol=0)


def test_a_generator_of_half_precision_maps_in_float32() -> None:
    generator, z = made(SETTINGS, torch.float32), torch.randn(3, 5)
    half = copy.deepcopy(generator).to(torch.bfloat16)
    rounded = copy.deepcopy(half).to(torch.float32)
    assert torch.equal(half.mapping(z), rounded.mapping(z).bfloat16())


def test_outputs_whose_weights_are_0_are_0_in_half_precision() -> None:
    x, weight = torch.ones(1, 4, 4, 4), torch.randn(3, 4, 3, 3)
    weight[1] = 0
    with torch.autocast("cpu", torch.float16):
        out = layers.modulated(x, weight, torch.full((1, 4), 100.0), demodulate=True)
    assert bool(out.isfinite().all()) and not bool(out[:, 1].any()) and bool(out[:, 0].any())


def test_widths_follow_the_usual_rule() -> None:
    assert usual_channels(1024) == (512, 512, 512, 512, 512, 256, 128, 64, 32)
    assert usual_channels(64, 1024, 64) == (64, 64, 64, 32, 16)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"resolution": 48}, "resolution: expected a power of two from 8 to 4096, got 48"),
        ({"resolution": 4, "channels": (3,)}, "resolution: expected a power of two"),
        ({"channels": (4, 3)}, r"channels: expected 3 whole numbers of at least 1, for 4 to 16 pixels, got \[4, 3\]"),
        ({"mapping_layers": 0}, "mapping_layers: expected a whole number of at least 1, got 0"),
        ({"mapping_multiplier": 0.0}, "mapping_multiplier: expected a number above 0, got 0.0"),
        ({"clamp": float("nan")}, "clamp: expected a number above 0, got nan"),
    ],
)
def test_sizes_that_do_not_make_a_generator(more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Settings(**{"resolution": 16, "channels": (4, 3, 2), **more})  # type: ignore[arg-type]


def test_inputs_of_another_shape() -> None:
    generator = made()
    w = generator.mapping(drawn(2))
    with pytest.raises(UsageError, match=r"z: expected \[B, 5\], got \[2, 6\]"):
        generator.mapping(torch.zeros(2, 6))
    with pytest.raises(UsageError, match=r"w: expected \[B, 6, 6\] or \[B, 6\], got \[2, 5, 6\]"):
        generator.synthesis(w[:, :5])
    with pytest.raises(UsageError, match=r"noise: expected 5 tensors .* of sides 4, 8, 8, 16, 16; got"):
        generator.synthesis(w, [torch.zeros(1, 1, 4, 4)] * 5)
    with pytest.raises(UsageError, match="noise: expected 2 generators, one a sample, got 1"):
        generator.synthesis(w, [torch.Generator()])


def test_half_precision_takes_a_style_of_zeros() -> None:
    small = StyleGAN2(Settings(resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channels=(4, 4)))
    for layer in small.styled().values():
        layer.modulation.weight.data.zero_()
        layer.modulation.bias.data.zero_()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert small.to(dtype).synthesis(torch.ones(2, 4, dtype=dtype)).isfinite().all()


def test_colours_are_added_up_without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    small = StyleGAN2(Settings(resolution=16, z_dim=4, w_dim=4, mapping_layers=1, channels=(4, 4, 4)))
    doubled, seen = small.resample.doubled, []
    monkeypatch.setattr(small.resample, "doubled", lambda x: seen.append(doubled(x)) or seen[-1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small(torch.ones(1, 4)).dtype == torch.float32
    assert [x.dtype for x in seen] == [torch.float32, torch.float32]


def test_a_mapping_of_any_depth_is_not_built() -> None:
    with pytest.raises(UsageError, match="mapping_layers: expected at most 64, got 10000000"):
        Settings(resolution=8, mapping_layers=10_000_000, channels=(4, 4))
