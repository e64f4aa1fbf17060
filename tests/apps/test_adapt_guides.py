"""What guides an adaptation: gradients on a generator's pictures, against autograd, the hosts' formulas and numbers."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.apps.adapt.configuration import class_of
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.guides import DirectionalGuide, Perceptual, PriorGuide, Regularisers, load_guide, network_of
from ldp_fast.apps.adapt.guides.pictures import clipped, through
from ldp_fast.clip import Clip
from ldp_fast.clip.guidance import ClipGuidance
from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, TimestepSampler
from ldp_fast.guidance.inputs import stack_noises
from ldp_fast.integrations._core import HostLosses
from ldp_fast.metrics.lpips import Lpips
from ldp_fast.metrics.lpips_networks import feature_stack, load_levels

ALL = {"directional": 0.7, "reconstruction": 0.4, "lpips": 5.0}
DRAWS = Draws(seed=3, step=5, samples=(0, 1, 2))


GUIDES: dict[str, Any] = {}


def fresh_guide_of(**said: Any) -> Any:
    plain = resolve({}, {"prompt": "a red sphere", "device": "cpu", **said})
    return load_guide(class_of(plain).from_plain(plain))


def guide_of(**said: Any) -> Any:
    """A guide is not changed by what it does, so that one of a kind serves all tests."""
    key = repr(said)
    if key not in GUIDES:
        GUIDES[key] = fresh_guide_of(**said)
    return GUIDES[key]


def pictures(batch: int = 3, size: int = 64, seed: int = 0, spread: float = 0.6) -> Tensor:
    """Smooth pictures, some of whose values lie outside of [-1, 1]."""
    coarse = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return spread * F.interpolate(coarse, (size, size), mode="bicubic")


def drawn(prior: LatentDiffusionPrior, draws: Draws) -> dict[str, Tensor]:
    """t and ε as the guide draws them."""
    s = prior.settings
    sampler = TimestepSampler(len(prior.schedule), *s.timestep_range, s.anneal_to)
    generators, cpu = draws.generators(), torch.device("cpu")
    t = torch.cat([sampler.sample(1, cpu, generator, 0.0) for generator in generators])
    shape = (s.noises, *prior.latent_shape)
    return {"timesteps": t, "noise": stack_noises([torch.randn(shape, generator=g) for g in generators])}


def encoded(prior: LatentDiffusionPrior, x: Tensor) -> Tensor:
    """v of pictures, on their graph, by a resize and a straight clamp of its own."""
    if x.shape[-1] != 128:
        x = F.interpolate(x, (128, 128), mode="bilinear", antialias=x.shape[-1] > 128)
    straight = x + (x.clamp(-1, 1) - x).detach()
    return prior.encode(straight * 0.5 + 0.5, sample=False)


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((found - wanted).norm() <= tolerance * wanted.norm()) and bool(wanted.norm() > 0)


# --- the prior ---


@pytest.mark.parametrize(("guidance", "size"), [("ldp", 64), ("ldp", 192), ("lsd", 128)])
def test_the_gradient_is_that_of_the_whole_chain(guidance: str, size: int) -> None:
    guide, x = guide_of(guidance=guidance), pictures(size=size)
    found, values = guide.gradient(x, x, DRAWS, 0.0)
    leaf = x.clone().requires_grad_()
    out = guide.prior(encoded(guide.prior, leaf), guide.text, **drawn(guide.prior, DRAWS))
    out.loss.backward()
    assert close(found, leaf.grad)
    assert float(x.abs().max()) > 1 and not x.requires_grad
    assert tuple(values) == guide.columns and all(value.shape == (3,) for value in values.values())
    for name, term in (("lsd", out.lsd), ("fm", out.fm), ("kl", out.kl)):
        torch.testing.assert_close(values[name].sum(), term.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values["norm_pixels"], found.flatten(1).norm(dim=1))


def test_lsd_is_the_whole_loss_without_its_two_regularisers() -> None:
    lsd, x = guide_of(guidance="lsd"), pictures()
    ldp = guide_of(settings={"lambda_fm": 0.0, "lambda_kl": 0.0})
    assert torch.equal(lsd.gradient(x, x, DRAWS, 0.0)[0], ldp.gradient(x, x, DRAWS, 0.0)[0])
    assert not close(guide_of().gradient(x, x, DRAWS, 0.0)[0], lsd.gradient(x, x, DRAWS, 0.0)[0])


@pytest.mark.parametrize("said", [{}, {"settings": {"noises": 2}, "regularisers": ALL, "pixel_clip": 0.9}])
def test_a_batch_is_its_samples(said: dict[str, Any]) -> None:
    guide, x, sources = guide_of(**said), pictures(), pictures(seed=1)
    together, values = guide.gradient(x, sources, DRAWS, 0.4)
    for i in range(3):
        alone, own = guide.gradient(x[i : i + 1], sources[i : i + 1], Draws(3, 5, (i,)), 0.4)
        assert close(alone, together[i : i + 1], 1e-3)
        for name in guide.columns:
            torch.testing.assert_close(own[name][0], values[name][i], rtol=1e-3, atol=1e-6)
    assert not close(guide.gradient(x, sources, Draws(3, 6, (0, 1, 2)), 0.4)[0], together, 1e-2)


def test_what_lies_outside_of_the_range_has_the_gradient_of_its_bound() -> None:
    guide, x = guide_of(guidance="lsd"), 3 * pictures(size=128)
    found, _ = guide.gradient(x, x, DRAWS, 0.0)
    within, _ = guide.gradient(x.clamp(-1, 1), x, DRAWS, 0.0)
    assert torch.equal(found, within)
    assert bool((found[x.abs() > 1] != 0).all())


def test_annealing_lowers_the_timesteps_of_the_end() -> None:
    guide, x = guide_of(guidance="lsd", settings={"timestep_range": [0.0, 1.0], "anneal_to": 0.01}), pictures()
    first, last = (guide.gradient(x, x, DRAWS, progress)[1]["norm_lsd"] for progress in (0.0, 1.0))
    # 1 − ᾱ is nearly 0 there.
    assert float(last.max()) < 0.5 * float(first.min())


def test_the_clamp_is_that_of_the_hosts_losses() -> None:
    guide = guide_of(regularisers={"clamp": 0.02}, settings={"scale": "latent"})
    prior, x = guide.prior, pictures()
    plain = guide_of(guidance="lsd").prior
    v = encoded(prior, x).detach()
    given = drawn(prior, DRAWS)
    alpha, _ = prior.schedule.gather(given["timesteps"])
    field, _ = plain.with_settings(weighting="uniform").gradient(v, guide.text, **given)
    weight = prior.schedule.weight(given["timesteps"], "dreamfusion")
    s = prior.settings
    host = HostLosses(prior.vae, s.lambda_fm, s.lambda_kl, s.lambda_lsd, "sum", clip=0.02, levels=s.levels)
    wanted, _ = host.gradient(v, field, alpha, weight)
    leaf = x.clone().requires_grad_()
    (on_pictures,) = torch.autograd.grad(encoded(prior, leaf), leaf, wanted)
    assert bool((weight.view(-1, 1, 1, 1) * field).abs().max() > 0.02)
    assert close(guide.gradient(x, x, DRAWS, 0.0)[0], on_pictures)


def test_a_half_precision_encoder_lets_small_gradients_through() -> None:
    guide, x = fresh_guide_of(guidance="lsd", settings={"lambda_lsd": 1e-7}), pictures(1, 128)
    wanted, _ = guide.gradient(x, x, Draws(3, 5, (0,)), 0.0)
    guide.prior.vae.half().register_to_config(force_upcast=False)
    found, _ = guide.gradient(x, x, Draws(3, 5, (0,)), 0.0)
    assert float(wanted.abs().max()) < 6e-8  # float16's smallest number
    assert close(found, wanted, 0.1)


# --- pixels ---


def test_a_clip_bounds_the_outliers_of_each_sample_alone() -> None:
    gradient = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e4
    found = clipped(gradient, 0.95)
    for was, now in zip(gradient.flatten(1), found.flatten(1), strict=True):
        bound = torch.quantile(was.abs(), 0.95)
        kept = was.abs() <= bound
        assert int((~kept).sum()) == 60  # 5 % of 1200
        assert torch.equal(now[kept], was[kept])
        assert torch.equal(now[~kept], bound * was[~kept].sign())
    assert clipped(gradient, None) is gradient


def test_the_clip_is_of_the_pixels_that_the_encoder_sees() -> None:
    x = pictures(size=64)
    guide, free = guide_of(guidance="lsd", pixel_clip=0.8), guide_of(guidance="lsd")
    seen = F.interpolate(x, (128, 128), mode="bilinear").clamp(-1, 1)
    there = clipped(free.gradient(seen, seen, DRAWS, 0.0)[0], 0.8)
    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.interpolate(leaf, (128, 128), mode="bilinear"), leaf, there)
    assert close(guide.gradient(x, x, DRAWS, 0.0)[0], wanted)
    assert not close(free.gradient(x, x, DRAWS, 0.0)[0], wanted, 0.1)


@pytest.mark.parametrize("size", [(6, 10), (3, 4)])
def test_a_gradient_goes_back_through_a_resize(size: tuple[int, int]) -> None:
    """By differences: L = Σ weight · shown is linear in the pictures."""
    x = 0.3 * torch.randn(1, 3, 5, 7, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    weight = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    found = through(x, size, lambda seen: weight)

    def loss(x: Tensor) -> float:
        there = F.interpolate(x.double(), size, mode="bilinear", antialias=size[0] < 5)
        return float((weight.double() * there).sum())

    for place in [(0, 0, 0, 0), (0, 1, 2, 3), (0, 2, 4, 6)]:
        moved = x.double().clone()
        moved[place] += 1
        assert float(found[place]) == pytest.approx(loss(moved) - loss(x), abs=1e-5)


# --- StyleGANFusion's regularisers ---


def on_pictures(guide: Any, x: Tensor, gradient: Tensor) -> Tensor:
    """What a gradient on v is on pictures."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(encoded(guide.prior, leaf), leaf, gradient)[0]


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


# --- CLIP ---


@pytest.fixture(scope="module")
def clip() -> Clip:
    return Clip.load("primitives")


def test_the_direction_is_that_of_the_loss(clip: Clip) -> None:
    guide, x, sources = guide_of(guidance="clip-directional"), pictures(), pictures(seed=1)
    found, values = guide.gradient(x, sources, DRAWS, 0.0)
    leaf = x.clone().requires_grad_()
    straight = leaf + (leaf.clamp(-1, 1) - leaf).detach()
    out = ClipGuidance.directional(clip, "a cube", "a red sphere", templates="none")(
        straight / 2 + 0.5, source=sources.clamp(-1, 1) / 2 + 0.5
    )
    (3 * out.loss).backward()
    assert close(found, leaf.grad)
    assert tuple(values) == guide.columns
    torch.testing.assert_close(values["direction"].mean(), out.loss.detach())
    for i in range(3):
        alone, _ = guide.gradient(x[i : i + 1], sources[i : i + 1], Draws(3, 5, (i,)), 0.0)
        assert close(alone, found[i : i + 1])


def test_several_clips_are_added_up_with_their_weights(clip: Clip) -> None:
    judge, x, sources = Clip.load("primitives/judge"), pictures(), pictures(seed=1)
    texts = ("a cube", "a red sphere")
    first, second = (DirectionalGuide([(one, 1.0)], *texts).gradient(x, sources, DRAWS, 0.0) for one in (clip, judge))
    found, values = DirectionalGuide([(clip, 0.5), (judge, 2.0)], *texts).gradient(x, sources, DRAWS, 0.0)
    assert close(found, 0.5 * first[0] + 2 * second[0])
    torch.testing.assert_close(values["direction"], 0.5 * first[1]["direction"] + 2 * second[1]["direction"])


def test_no_templates_for_a_clip_that_does_not_know_their_words(clip: Clip) -> None:
    x, sources = pictures(), pictures(seed=1)
    texts = ("a cube", "a red sphere")
    unsaid, none, imagenet = (
        DirectionalGuide([(clip, 1.0)], *texts, templates=templates).gradient(x, sources, DRAWS, 0.0)[0]
        for templates in (None, "none", "imagenet")
    )
    assert torch.equal(unsaid, none) and not close(imagenet, none, 1e-2)


# --- loading ---


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"prompt": "a red dog"}, "dog"),
        ({"prompt": "a red dog", "guidance": "clip-directional"}, "dog"),
        ({"source_prompt": "a cat", "guidance": "clip-directional"}, "source_prompt: the embedded model does"),
        ({"source_prompt": "a red sphere", "guidance": "clip-directional"}, "source_prompt: expected another"),
        ({"clips": [["nobody/nothing", 1.0]], "guidance": "clip-directional"}, "--guidance-clip"),
        ({"templates": "haiku", "guidance": "clip-directional"}, "templates: expected one of"),
        ({"regularisers": {"lpips": 1.0, "lpips_network": "squeeze"}}, "expected alex, vgg, clip:NAME or vae:NAME"),
        ({"regularisers": {"lpips": 1.0, "lpips_network": "vgg", "lpips_weights": "nowhere.pth"}}, "nowhere.pth"),
    ],
)
def test_what_cannot_guide_is_said_in_one_line(
    said: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError) as caught:
        guide_of(**said)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_guides_model_refuses_unknown_prompts() -> None:
    for guidance in ("ldp", "clip-directional"):
        model = guide_of(guidance=guidance).model
        model.encode_prompt("a green cone")
        with pytest.raises(UsageError, match="dog"):
            model.encode_prompt("a green dog")


def test_a_guide_is_made_without_a_configuration() -> None:
    prior = LatentDiffusionPrior.from_pretrained(
        "primitives", preset="stylegan", device="cpu", batch_reduction="sum", scale="balanced"
    )
    guide = PriorGuide(prior, "a red sphere", regularisers=Regularisers(directional=1.0))
    x = pictures(1, 32)
    gradient, values = guide.gradient(x, x, Draws(0, 0, (0,)), 0.0)
    assert gradient.shape == x.shape and gradient.dtype == torch.float32
    assert tuple(values) == guide.columns


# --- on a device ---


@pytest.mark.gpu
@pytest.mark.parametrize("guidance", ["ldp", "clip-directional"])
def test_no_gradient_waits_for_the_device(guidance: str) -> None:
    said: dict[str, Any] = {"settings": {"noises": 2}, "regularisers": {**ALL, "clamp": 1.0}}
    guide = fresh_guide_of(guidance=guidance, device="cuda", pixel_clip=0.95, **(said if guidance == "ldp" else {}))
    x, sources = pictures().cuda(), pictures(seed=1).cuda()
    guide.gradient(x, sources, DRAWS, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found, values = guide.gradient(x, sources, DRAWS, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert found.device == guide.device == x.device and float(found.norm()) > 0
    assert all(bool(value.isfinite().all()) for value in values.values())
