"""stable-dreamfusion: both of its steps, with and without Perp-Neg, under its GradScaler, and its real code."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import LatentDiffusionPrior, UsageError
from ldp_fast.guidance import PriorSettings
from ldp_fast.integrations.stable_dreamfusion import wrap

from ..ops.common import NoSync
from ..support.models import TEXT_WIDTH, save_stable_diffusion, scheduler, tiny_vae
from .hosts import checkout, imported
from .network import Network
from .oracle import ALONE, PAPER, FakeHost, assert_same


class Host(FakeHost):
    """What a step reads of the host's StableDiffusion."""

    def __init__(self) -> None:
        ddim = scheduler()
        super().__init__(scheduler=ddim, alphas=ddim.alphas_cumprod, min_step=20, max_step=980, device="cpu")
        self.unet, self.vae = Network(), tiny_vae()

    def train_step_perpneg(self) -> None:
        """What is replaced."""

    def decode_latents(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample


def embeddings(rows: int) -> Tensor:
    return torch.randn(rows, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))


def leaf_of(batch: int = 2, channels: int = 4) -> Tensor:
    return torch.rand(batch, channels, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def weights_of(batch: int, *negatives: float) -> Tensor:
    """[K·B] as the host has them: the positive's 1 for every sample, then each negative for every sample."""
    spread = torch.linspace(1.0, 0.5, batch)
    return torch.cat([torch.ones(batch), *(w * spread for w in negatives)])


def by_hand(
    host: Any, rgb: Tensor, text: Tensor, seed: int, weights: Tensor | None = None, as_latent: bool = True
) -> Tensor:
    """The host's gradient on what was rendered, in our own words: a t a sample, w = 1 − ᾱ, divided by the batch."""
    batch = len(rgb)
    torch.manual_seed(seed)
    if as_latent:
        latents = 2 * F.interpolate(rgb, (64, 64), mode="bilinear") - 1
    else:
        latents = host.encode_imgs(F.interpolate(rgb, (512, 512), mode="bilinear", align_corners=False))
    t = torch.randint(20, 981, (batch,))
    noise = torch.randn_like(latents)
    bar = host.alphas[t].view(-1, 1, 1, 1)
    copies = len(text) // batch
    with torch.no_grad():
        z = bar.sqrt() * latents + (1 - bar).sqrt() * noise
        out = host.unet(z.repeat(copies, 1, 1, 1), t.repeat(copies), encoder_hidden_states=text).sample
        uncond, *rest = out.split(batch)
        towards = rest[0] - uncond
        direction = towards.clone()
        for k, other in enumerate(rest[1:], start=1):
            assert weights is not None
            against = other - uncond
            share = (against * towards).sum((1, 2, 3)) / (towards * towards).sum((1, 2, 3))
            w = weights.view(-1, batch)[k]
            w = torch.where(w.abs() > 1e-4, w, torch.zeros(()))
            direction += w.view(-1, 1, 1, 1) * (against - share.view(-1, 1, 1, 1) * towards)
        field = (1 - bar) * (uncond + 100 * direction - noise) / batch
    return torch.autograd.grad(latents, rgb, field)[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("as_latent", [True, False], ids=["latents", "images"])
def test_score_distillation_is_the_hosts(seed: int, as_latent: bool) -> None:
    host, text = wrap(Host(), **ALONE), embeddings(4)
    rgb = leaf_of(channels=4 if as_latent else 3)
    expected = by_hand(host, rgb, text, seed, as_latent=as_latent)
    torch.manual_seed(seed)
    host.train_step(text, rgb, as_latent=as_latent, grad_scale=1.0).backward()
    assert_same(rgb.grad, expected)


@pytest.mark.parametrize("negatives", [(-1.5, -0.7), (-2.0, 0.0), (-1.0, 5e-5), ()])
def test_perp_neg_is_the_hosts(negatives: tuple[float, ...]) -> None:
    """A weight too small for the host is too small for us, and nothing is asked of the device."""
    batch = 2
    host, text = wrap(Host(), **ALONE), embeddings(batch * (2 + len(negatives)))
    rgb, weights = leaf_of(batch), weights_of(batch, *negatives)
    expected = by_hand(host, rgb, text, 4, weights)
    torch.manual_seed(4)
    with NoSync():
        host.train_step_perpneg(text, weights, rgb, as_latent=True).backward()
    assert_same(rgb.grad, expected)


def test_the_regularisers_come_on_top() -> None:
    """What `LatentDiffusionPrior` gives under the host's conventions, for the same latents, t and ε."""
    host, text = wrap(Host(), **PAPER), embeddings(4)
    settings = PriorSettings(0.01, 0.1, 1.0, 100.0, weighting="dreamfusion", nonfinite="zero")
    prior = LatentDiffusionPrior(host.unet, host.vae, host.scheduler, settings=settings)
    rgb = leaf_of(channels=3)
    torch.manual_seed(6)
    latents = host.encode_imgs(F.interpolate(rgb, (512, 512), mode="bilinear", align_corners=False))
    t, noise = torch.randint(20, 981, (2,)), torch.randn_like(latents)
    field, statistics = prior.gradient(latents, text, timesteps=t, noise=noise)
    (expected,) = torch.autograd.grad(latents, rgb, field)
    torch.manual_seed(6)
    loss = host.train_step(text, rgb)
    loss.backward()
    assert_same(rgb.grad, expected)
    numbers, wanted = host.ldp.statistics.read(), statistics.read()
    assert numbers == pytest.approx(wanted, rel=1e-4)
    total = 0.01 * wanted["fm"] + 0.1 * wanted["kl"] + wanted["lsd"]
    assert float(loss.detach()) == pytest.approx(total, rel=1e-4)


def test_normals_get_no_regularisers() -> None:
    host, text = wrap(Host(), **PAPER), embeddings(4)
    rgb = leaf_of()
    expected = by_hand(host, rgb, text, 2)
    torch.manual_seed(2)
    host.train_step(text, rgb, as_latent=True).backward()
    assert_same(rgb.grad, expected)
    assert host.ldp.statistics.read()["fm"] == 0


@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_a_grad_scaler_and_the_hosts_grad_scale(scale: float) -> None:
    host, text = wrap(Host(), **ALONE), embeddings(4)
    rgb = leaf_of()
    expected = 0.5 * by_hand(host, rgb, text, 2)
    optimiser, scaler = torch.optim.SGD([rgb], lr=1.0), torch.amp.GradScaler("cpu", init_scale=scale)
    torch.manual_seed(2)
    scaler.scale(host.train_step(text, rgb, as_latent=True, grad_scale=0.5)).backward()
    scaler.unscale_(optimiser)
    assert_same(rgb.grad, expected)


def test_under_float16_autocast_no_worse_than_the_host() -> None:
    host, text = wrap(Host(), **ALONE), embeddings(8)
    rgb, weights = leaf_of(), weights_of(2, -1.5, -0.7)
    truth = by_hand(host, rgb, text, 8, weights)
    with torch.autocast("cpu", dtype=torch.float16):
        theirs = by_hand(host, rgb, text, 8, weights)
        torch.manual_seed(8)
        host.train_step_perpneg(text, weights, rgb, as_latent=True).backward()
    assert (rgb.grad - truth).norm() <= 1.1 * (theirs - truth).norm()


def test_non_finite_elements_are_left_out_and_counted() -> None:
    host, text = wrap(Host(), **ALONE), embeddings(4)
    with torch.no_grad():
        host.unet.conv_out.bias[0] = float("nan")
    rgb = leaf_of()
    host.train_step(text, rgb, as_latent=True).backward()
    assert rgb.grad.isfinite().all() and (rgb.grad[:, 0] == 0).all() and (rgb.grad[:, 1] != 0).any()
    assert host.ldp.statistics.read()["nonfinite_lsd"] == 2 * 64 * 64


def test_pictures_of_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    saved: list[Any] = []
    stand_in = type(sys)("torchvision.utils")
    stand_in.save_image = lambda images, path: saved.append((images, path))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", type(sys)("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.utils", stand_in)
    host = wrap(Host(), **ALONE)
    host.train_step(embeddings(4), leaf_of(), as_latent=True, save_guidance_path=tmp_path / "x.png")
    ((images, path),) = saved
    assert images.shape == (6, 3, 512, 512) and images.isfinite().all() and path == tmp_path / "x.png"


def test_an_object_that_is_not_the_hosts_is_named() -> None:
    with pytest.raises(UsageError, match=r"Linear: expected an object with unet"):
        wrap(torch.nn.Linear(1, 1))


def test_the_hosts_real_code(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own constructor on a small Stable Diffusion from disk, then every kind of step with it and with ours."""
    folder = save_stable_diffusion(tmp_path / "sd")
    with imported(checkout("stable-dreamfusion"), "guidance.sd_utils", "torchvision") as code:
        host = code.StableDiffusion("cpu", False, False, hf_key=str(folder))
        monkeypatch.setattr(code, "save_image", lambda *arguments: None)
        ours = wrap(code.StableDiffusion("cpu", False, False, hf_key=str(folder)), **ALONE)
        for batch, perp_neg, as_latent in [(1, False, True), (2, False, False), (1, True, True), (3, True, True)]:
            rgb = leaf_of(batch, 4 if as_latent else 3)
            text = embeddings(batch * (4 if perp_neg else 2))
            arguments = (text, weights_of(batch, -1.5, -0.7), rgb) if perp_neg else (text, rgb)
            method = "train_step_perpneg" if perp_neg else "train_step"
            found = []
            for each in (host, ours):
                torch.manual_seed(9)
                loss = getattr(each, method)(*arguments, as_latent=as_latent, grad_scale=0.7)
                found.append(torch.autograd.grad(loss, rgb)[0])
            assert_same(found[1], found[0])
