"""StyleGANFusion's regularisers of an adaptation, against the host's formulas and numbers."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.apps.adapt.guides import Perceptual, network_of
from ldp_fast.metrics.lpips import Lpips
from ldp_fast.metrics.lpips_networks import feature_stack, load_levels

from .adapt_guides import ALL, DRAWS, close, drawn, encoded, guide_of, on_pictures, pictures


@pytest.mark.parametrize("noises", [1, 2])
def test_the_directional_regulariser_is_the_difference_of_two_score_distillations(noises: int) -> None:
    x, sources = pictures(), pictures(seed=1)
    said: dict[str, Any] = {"guidance": "lsd", "settings": {"noises": noises}}
    plain, guide = guide_of(**said), guide_of(**said, regularisers={"directional": 2.0})
    given = drawn(plain.prior, DRAWS)
    after, before = (plain.prior.gradient(encoded(plain.prior, y), plain.text, **given)[0] for y in (x, sources))
    added = guide.gradient(x, sources, DRAWS, 0.0)[0] - plain.gradient(x, x, DRAWS, 0.0)[0]
    assert close(added, on_pictures(plain, x, 2 * (after - before)), 1e-3)
    assert float(guide.gradient(x, x, DRAWS, 0.0)[1]["directional"].max()) < 1e-9


def test_the_clamp_bounds_the_regularisers_too() -> None:
    x, sources, bound = pictures(), pictures(seed=1), 0.01
    alone: dict[str, Any] = {"guidance": "lsd", "settings": {"lambda_lsd": 0.0}}
    plain, given = guide_of(guidance="lsd"), drawn(guide_of(guidance="lsd").prior, DRAWS)
    after, before = (plain.prior.gradient(encoded(plain.prior, y), plain.text, **given)[0] for y in (x, sources))
    field = 2 * (after - before)
    assert float(field.abs().max()) > 2 * bound
    found, _ = guide_of(**alone, regularisers={"directional": 2.0, "clamp": bound}).gradient(x, sources, DRAWS, 0.0)
    assert close(found, on_pictures(plain, x, field.clamp(-bound, bound)), 1e-3)


def test_what_is_not_finite_is_zero_where_that_is_wanted() -> None:
    x, nowhere = pictures(), torch.full((3, 3, 64, 64), torch.nan)
    said: dict[str, Any] = {"guidance": "lsd", "regularisers": {"directional": 1.0, "reconstruction": 1.0}}
    zero = guide_of(**said, settings={"nonfinite": "zero"}).gradient(x, nowhere, DRAWS, 0.0)[0]
    assert close(zero, guide_of(guidance="lsd").gradient(x, x, DRAWS, 0.0)[0], 1e-3)
    assert not bool(guide_of(**said).gradient(x, nowhere, DRAWS, 0.0)[0].isfinite().any())


def test_the_reconstruction_regulariser_is_the_hosts() -> None:
    """`train_directionalLoss_step` of StyleGANFusion, whose gradient by ε̂ is autograd's there."""
    x, sources, guide = pictures(), pictures(seed=1), guide_of(guidance="lsd")
    prior, given = guide.prior, drawn(guide.prior, DRAWS)
    v, wanted = encoded(prior, x).detach(), encoded(prior, sources).detach()
    alpha, sigma = (c.view(-1, 1, 1, 1) for c in prior.schedule.gather(given["timesteps"]))
    noisy = alpha * v + sigma * given["noise"]
    residual, _ = prior.with_settings(weighting="uniform").gradient(v, guide.text, **given)
    predicted = (residual + given["noise"]).requires_grad_()
    # Summed, so that a sample has the gradient that the host's batch of one has, up to its size.
    F.mse_loss((noisy - sigma * predicted) / alpha, wanted, reduction="sum").backward()

    def unit(y: Tensor) -> Tensor:
        return torch.stack([sample / sample.square().mean().sqrt() for sample in y])

    weight = prior.schedule.weight(given["timesteps"], "dreamfusion").view(-1, 1, 1, 1)
    field = weight * (unit(predicted.detach()) - unit(predicted.grad))
    held = guide_of(guidance="lsd", regularisers={"reconstruction": 3.0}).gradient(x, sources, DRAWS, 0.0)[0]
    assert close(held - guide.gradient(x, x, DRAWS, 0.0)[0], on_pictures(guide, x, 3 * field), 1e-3)


@pytest.mark.parametrize("size", [128, 64])
def test_the_perceptual_distance_is_the_metrics(size: int) -> None:
    x, sources = pictures(2, size, spread=0.2), pictures(2, size, seed=1, spread=0.2)
    levels = load_levels("vae:primitives", None, None, torch.device("cpu"))
    distance = Perceptual(levels, (size, size))
    gradient, found = distance.gradient(x, sources)
    lpips = Lpips(levels, size)
    a, b = lpips(x / 2 + 0.5), lpips(sources / 2 + 0.5)
    torch.testing.assert_close(found, (a - b).square().sum(1), rtol=1e-4, atol=1e-6)
    assert distance.name == lpips.name and distance.name.startswith("lpips-like (vae:primitives)")
    # Differences along the gradient: the sum over the samples falls as fast as the gradient says.
    h = 0.05 / float(gradient.norm())
    ahead, behind = (float(distance.gradient(x + s * h * gradient, sources)[1].sum()) for s in (1, -1))
    assert (ahead - behind) / (2 * h) == pytest.approx(float(gradient.square().sum()), rel=2e-2)
    nothing, zero = distance.gradient(sources, sources)
    assert float(zero.max()) == 0 and float(nothing.abs().max()) == 0


def test_lpips_of_alexnet_has_a_gradient(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("torchmetrics")
    torch.manual_seed(0)
    stack = feature_stack("alex")
    torch.save({f"features.{name}": value for name, value in stack.state_dict().items()}, tmp_path / "alex.pth")
    levels = load_levels("alex", tmp_path / "alex.pth", None, torch.device("cpu"))
    x, sources = pictures(1, 64, spread=0.2), pictures(1, 64, seed=1, spread=0.2)
    distance = Perceptual(levels, (64, 64))
    gradient, found = distance.gradient(x, sources)
    h = 0.02 / float(gradient.norm())
    ahead, behind = (float(distance.gradient(x + s * h * gradient, sources)[1]) for s in (1, -1))
    assert (ahead - behind) / (2 * h) == pytest.approx(float(gradient.square().sum()), rel=3e-2)
    assert distance.name == "LPIPS 0.1 (alex), 64 px" and float(found) > 0


def test_a_black_position_does_not_end_the_perceptual_gradient() -> None:
    class Dark:
        name, weights, calibrated, side, digest = "dark", [torch.ones(3)], False, 8, ""

        def __call__(self, pixels: Tensor) -> list[Tensor]:
            return [pixels - 0.25]

        def refuse(self, side: int) -> str:
            return ""

    x = torch.full((1, 3, 8, 8), -0.5)
    x[..., 4:] = torch.tensor([0.2, 0.4, 0.8]).view(1, 3, 1, 1)
    gradient, _ = Perceptual(Dark(), (8, 8)).gradient(x, x.flip(1))
    assert bool(gradient.isfinite().all())
    assert bool((gradient[..., 4:] != 0).any())


def test_the_perceptual_distance_is_added_after_the_clip() -> None:
    x, sources = pictures(size=128, spread=0.2), pictures(size=128, seed=1, spread=0.2)
    guide = guide_of(guidance="lsd", pixel_clip=0.5, regularisers={"lpips": 40.0})
    free = guide_of(guidance="lsd", pixel_clip=0.5)
    distance = guide.regularisers.distance
    wanted = 40 * distance.gradient(x.clamp(-1, 1), sources.clamp(-1, 1))[0]
    found = guide.gradient(x, sources, DRAWS, 0.0)[0] - free.gradient(x, x, DRAWS, 0.0)[0]
    assert close(found, wanted, 1e-3)


def test_only_regularisers_ask_for_the_sources() -> None:
    assert not guide_of().wants_sources and not guide_of(guidance="lsd", pixel_clip=0.95).wants_sources
    for name in ALL:
        guide = guide_of(guidance="lsd", regularisers={name: 1.0})
        assert guide.wants_sources and name in guide.columns
    assert guide_of(guidance="clip-directional").wants_sources


def test_lpips_is_of_vgg_but_for_an_embedded_model() -> None:
    assert network_of("primitives") == "vae:primitives"
    assert network_of("stable-diffusion-v1-5/stable-diffusion-v1-5") == "vgg"
