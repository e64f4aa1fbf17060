"""What guides an adaptation: the prior's gradient on a generator's pictures, against autograd; loading of any guide."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast.apps.adapt.draws import Draws
from ldp_fast.apps.adapt.guides import PriorGuide, Regularisers
from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.integrations._core import HostLosses

from .adapt_guides import ALL, DRAWS, close, drawn, encoded, fresh_guide_of, guide_of, pictures


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
