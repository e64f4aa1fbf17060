"""Latent-NeRF: its score distillation to the bit that float32 has, its two modes, its GradScaler, its real code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor, nn

from ldp_fast import LatentDiffusionPrior, UsageError
from ldp_fast.guidance import PriorSettings
from ldp_fast.integrations.latent_nerf import wrap

from ..ops.common import NoSync
from ..support.models import TEXT_WIDTH, tiny_unet, tiny_vae
from .hosts import checkout, imported
from .oracle import assert_same

OFF = {"lambda_fm": 0.0, "lambda_kl": 0.0}
TEXT = torch.randn(2, 5, TEXT_WIDTH, generator=torch.Generator().manual_seed(3))


class Host(nn.Module):
    """What a step reads of the host's StableDiffusion."""

    def __init__(self, latent_mode: bool = True):
        super().__init__()
        self.unet, self.vae, self.latent_mode, self.device = tiny_unet(), tiny_vae(), latent_mode, "cpu"
        self.scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.alphas, self.min_step, self.max_step = self.scheduler.alphas_cumprod, 20, 980

    def encode_imgs(self, images: Tensor) -> Tensor:
        return self.vae.encode(2 * images - 1).latent_dist.sample() * 0.18215

    def train_step(self, *arguments: Any) -> None:
        raise AssertionError("the host's own step was called")


def rendered(seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    """A leaf, and latents that depend on it: what backpropagates through a renderer."""
    leaf = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    return leaf, 0.5 * leaf + 0.1


def by_hand(host: Any, latents: Tensor, seed: int, scale: float = 100.0) -> Tensor:
    """Latent-NeRF's gradient on the latents, in our own words: one t, [uncond, text], w = √ᾱ (1 − ᾱ), no division."""
    torch.manual_seed(seed)
    t = torch.randint(host.min_step, host.max_step + 1, [1])
    noise = torch.randn_like(latents)
    bar = host.scheduler.alphas_cumprod[t]
    with torch.no_grad():
        noisy = (bar.sqrt() * latents + (1 - bar).sqrt() * noise).repeat(2, 1, 1, 1)
        uncond, text = host.unet(noisy, t, encoder_hidden_states=TEXT).sample.chunk(2)
    return (bar.sqrt() * (1 - bar) * (uncond + scale * (text - uncond) - noise)).float()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_mode_is_the_hosts_step(seed: int) -> None:
    host = wrap(Host(), **OFF)
    leaf, latents = rendered()
    expected = by_hand(host, latents, seed)
    torch.manual_seed(seed)
    assert host.train_step(TEXT, latents) == 0
    assert_same(leaf.grad, 0.5 * expected)
    latents.sum().backward()  # the graph is still there, for the host's other losses


def test_loss_mode_has_the_same_gradient() -> None:
    host = wrap(Host(), mode="loss", **OFF)
    leaf, latents = rendered()
    expected = by_hand(host, latents, 5, 7.5)
    torch.manual_seed(5)
    loss = host.train_step(TEXT, latents, 7.5)
    assert leaf.grad is None
    loss += 0.0  # as the host adds its sparsity loss, in place
    loss.backward()
    assert_same(leaf.grad, 0.5 * expected)


@pytest.mark.parametrize("mode", ["gradient", "loss"])
def test_the_regularisers_come_on_top(mode: str) -> None:
    """Both modes give what `LatentDiffusionPrior` gives under the host's conventions, for the same t and ε."""
    host = wrap(Host(), mode=mode)
    settings = PriorSettings(0.01, 0.1, 1.0, 100.0, weighting="latent_nerf", batch_reduction="sum")
    prior = LatentDiffusionPrior(host.unet, host.vae, host.scheduler, settings=settings)
    leaf, latents = rendered()
    torch.manual_seed(4)
    t, noise = torch.randint(20, 981, [1]), torch.randn_like(latents)
    wanted, _ = prior.gradient(latents, TEXT, timesteps=t, noise=noise)
    torch.manual_seed(4)
    loss = host.train_step(TEXT, latents)
    if mode == "loss":
        loss.backward()
    torch.testing.assert_close(leaf.grad, 0.5 * wanted)
    numbers = host.ldp.statistics.read()
    assert numbers["t"] == t and numbers["fm"] > 0 and numbers["norm_kl"] > 0
    alone = by_hand(host, latents, 4)
    assert not torch.allclose(2 * leaf.grad, alone, rtol=1e-2)


def test_images_are_encoded_by_the_host() -> None:
    host = wrap(Host(latent_mode=False), **OFF)
    images = torch.rand(1, 3, 64, 64).requires_grad_()
    torch.manual_seed(1)
    host.train_step(TEXT, images)
    torch.manual_seed(1)
    big = nn.functional.interpolate(images, (512, 512), mode="bilinear", align_corners=False)
    latents = host.encode_imgs(big)
    t, noise = torch.randint(20, 981, [1]), torch.randn_like(latents)
    bar = host.alphas[t]
    with torch.no_grad():
        z = bar.sqrt() * latents + (1 - bar).sqrt() * noise
        u, c = host.unet(z.repeat(2, 1, 1, 1), t, encoder_hidden_states=TEXT).sample.chunk(2)
    field = bar.sqrt() * (1 - bar) * (u + 100 * (c - u) - noise)
    (expected,) = torch.autograd.grad(latents, images, field)
    assert_same(images.grad, expected)


def trained(mode: str, sparsity: float, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """A step of the host's trainer with its GradScaler: the gradient that its optimiser sees, and both parts of it."""
    host = wrap(Host(), mode=mode, **OFF)
    field = nn.Parameter(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    lsd = by_hand(host, field.detach(), 3)
    (sparse,) = torch.autograd.grad(field.sigmoid().mean(), field)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    optimiser = torch.optim.SGD([field], lr=1.0)
    torch.manual_seed(3)
    loss = host.train_step(TEXT, field * 1.0)
    loss += sparsity * field.sigmoid().mean()
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    assert field.grad is not None
    return field.grad, lsd, sparse


def test_gradient_mode_keeps_what_the_hosts_scaler_does() -> None:
    """Score distillation is divided by a scale it was never multiplied by."""
    seen, lsd, sparse = trained("gradient", 5e-4, 65536.0)
    assert_same(seen, lsd / 65536 + 5e-4 * sparse)


def test_loss_mode_is_right_under_any_scaler_and_the_old_ratio_takes_another_weight() -> None:
    for scale in (1.0, 1024.0, 65536.0):
        seen, lsd, sparse = trained("loss", 5e-4, scale)
        assert_same(seen, lsd + 5e-4 * sparse)
    old, _, _ = trained("gradient", 5e-4, 65536.0)
    new, _, _ = trained("loss", 5e-4 * 65536, 65536.0)
    assert_same(new, 65536 * old)


def test_under_float16_autocast_no_worse_than_the_host() -> None:
    host = wrap(Host(), **OFF)
    leaf, latents = rendered()
    truth = by_hand(host, latents, 8)
    with torch.autocast("cpu", dtype=torch.float16):
        theirs = by_hand(host, latents, 8)
        torch.manual_seed(8)
        host.train_step(TEXT, latents)
    assert not torch.equal(theirs, truth)
    assert (2 * leaf.grad - truth).norm() <= 1.1 * (theirs - truth).norm()


def test_half_precision_latents_get_a_gradient_of_their_own_dtype() -> None:
    host = wrap(Host(), **OFF)
    host.unet.half()
    leaf = torch.randn(1, 4, 8, 8).half().requires_grad_()
    host.train_step(TEXT.half(), leaf * 1)
    assert leaf.grad.dtype == torch.float16 and leaf.grad.isfinite().all()


def test_more_than_one_view() -> None:
    """The host stops at batch 1; with more, every sample has the two embeddings."""
    host = wrap(Host(), **OFF)
    leaf, latents = rendered(batch=3)
    host.train_step(TEXT, latents)
    assert leaf.grad.flatten(1).norm(dim=1).min() > 0


def test_nothing_waits_for_the_device() -> None:
    host = wrap(Host())
    host.train_step(TEXT, rendered()[1])  # makes the tables and the decoder
    with NoSync():
        host.train_step(TEXT, rendered()[1])


def test_the_object_stays_the_hosts() -> None:
    host = Host()
    keys = list(host.state_dict())
    assert wrap(host) is host and isinstance(host, Host) and list(host.state_dict()) == keys
    with pytest.raises(AssertionError, match="the host's own step"):
        Host().train_step(TEXT, rendered()[1])
    with pytest.raises(UsageError, match="mode: expected gradient or loss, got 'losses'"):
        wrap(host, mode="losses")
    with pytest.raises(UsageError, match=r"Linear: expected an object with unet, .* got one without unet"):
        wrap(nn.Linear(1, 1))


def real_object(cls: type, latent_mode: bool) -> Any:
    """The host's object with what a step reads, made without its `__init__`, which loads models from the hub."""
    made = cls.__new__(cls)
    nn.Module.__init__(made)
    like = Host(latent_mode)
    names = ("unet", "vae", "scheduler", "alphas", "latent_mode", "device", "min_step", "max_step")
    for name in names:
        setattr(made, name, getattr(like, name))
    return made


@pytest.mark.parametrize("latent_mode", [True, False], ids=["latents", "images"])
def test_the_hosts_real_code(latent_mode: bool) -> None:
    stood_in = ("torchvision", "loguru", "huggingface_hub")
    with imported(checkout("latent-nerf"), "src.stable_diffusion", *stood_in) as code:
        host = real_object(code.StableDiffusion, latent_mode)
        leaf = torch.rand(1, 4 if latent_mode else 3, 8, 8).requires_grad_()
        torch.manual_seed(11)
        assert host.train_step(TEXT, leaf * 1.0) == 0
        theirs, leaf.grad = leaf.grad, None
        wrap(host, **OFF)
        torch.manual_seed(11)
        assert host.train_step(TEXT, leaf * 1.0) == 0
        assert_same(leaf.grad, theirs)
        image = host.decode_latents(torch.randn(1, 4, 8, 8))
        assert image.shape == (1, 3, 64, 64)
