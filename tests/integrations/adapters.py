"""Every adapter on a small host of its kind, and one step of it: what holds for all of them is tested once for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ldp_fast.integrations import dreamgaussian, latent_nerf, nerfstudio, prolificdreamer, stable_dreamfusion
from ldp_fast.integrations import stylegan_fusion as fusion
from ldp_fast.integrations.sjc import SJCLosses

from ..support.models import CompVisAutoencoder, scheduler, tiny_vae
from .network import Network
from .oracle import FakeHost, options

LAMBDAS = {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0}


class Host(FakeHost):
    """What the adapters read of their hosts, all of it."""

    def __init__(self) -> None:
        ddim, vae = scheduler(), tiny_vae()
        super().__init__(scheduler=ddim, unet=Network(), vae=vae, auto_encoder=vae, min_step=20, max_step=980)
        self.latent_mode, self.dtype, self.num_train_timesteps = True, torch.float32, 1000
        self.opt = options(latent=True, sds=True, v_pred=False)
        self.args = options(CFG=100, min_step=20, max_step=980, rescaleCFG_Noise=False, EG3D=False)
        self.text_embeddings = embeddings(2)
        self.embeddings = {name: embeddings(5)[i : i + 1] for i, name in enumerate(("pos", "neg", "front", "side"))}

    def imgs_to_latent(self, images: Tensor) -> Tensor:
        images = images[..., ::8, ::8]
        return self.vae.encode(2 * images - 1).latent_dist.sample() * 0.18215

    def train_step_perpneg(self) -> None:
        """What is replaced."""

    def sds_loss(self) -> None:
        """What is replaced."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """A step, for what runs modules by calling them."""
        return self.train_step(*arguments, **keywords)


def embeddings(rows: int) -> Tensor:
    return torch.randn(rows, 5, 16, generator=torch.Generator().manual_seed(3))


def latents(batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()


def images(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One of them.

    Attributes:
        name: of its module.
        wrap: puts it on a host.
        step: a host's step: the host, the text's rows and the batch, to the gradient on what was rendered.
        vae: the name that the host has its autoencoder under.
    """

    name: str
    wrap: Callable[..., Any]
    step: Callable[[Any, Tensor, int], Tensor]
    vae: str = "vae"

    def __str__(self) -> str:
        return self.name

    def host(self, **lambdas: float) -> Any:
        """A wrapped host."""
        return self.wrap(Host(), **{**LAMBDAS, **lambdas})

    def gradient(self, host: Any, text: Tensor | None = None, batch: int = 1) -> Tensor:
        """Of a step with the same t and ε every time."""
        torch.manual_seed(5)
        return self.step(host, embeddings(2) if text is None else text, batch)


def _latent_nerf(host: Any, text: Tensor, batch: int) -> Tensor:
    leaf = latents(batch)
    host.train_step(text, leaf * 1.0)
    assert leaf.grad is not None
    return leaf.grad


def _loss_of_images(step: Callable[[Any, Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor, int], Tensor]:
    def gradient(host: Any, text: Tensor, batch: int) -> Tensor:
        leaf = images(batch)
        return torch.autograd.grad(step(host, text, leaf), leaf)[0]

    return gradient


def _stylegan_fusion(host: Any, text: Tensor, batch: int) -> Tensor:
    host.text_embeddings = text
    return host.train_step(latents(batch))[0]


def _prolificdreamer(host: Any, text: Tensor, batch: int) -> Tensor:
    leaf = latents(batch)
    return torch.autograd.grad(host.train_step(text, leaf, 7.5)[0], leaf)[0]


def _perp_neg(host: Any, text: Tensor, rgb: Tensor) -> Tensor:
    rest = len(text) // len(rgb) - 1
    return host.train_step_perpneg(text, torch.tensor([1.0, -1.5, -0.7])[:rest].repeat_interleave(len(rgb)), rgb)


ADAPTERS = (
    Adapter("latent_nerf", latent_nerf.wrap, _latent_nerf),
    Adapter(
        "stable_dreamfusion",
        stable_dreamfusion.wrap,
        _loss_of_images(lambda host, text, rgb: host.train_step(text, rgb)),
    ),
    Adapter("stylegan_fusion", fusion.wrap, _stylegan_fusion),
    Adapter("dreamgaussian", dreamgaussian.wrap, _loss_of_images(lambda host, text, rgb: host.train_step(rgb))),
    Adapter(
        "nerfstudio",
        nerfstudio.wrap,
        _loss_of_images(lambda host, text, rgb: host.sds_loss(text, rgb)),
        "auto_encoder",
    ),
    Adapter("prolificdreamer", prolificdreamer.wrap, _prolificdreamer),
)
TAKE_TEXT = tuple(a for a in ADAPTERS if a.name != "dreamgaussian")


def another_vae() -> Any:
    """The same encoder, so that the latents are the same; another decoder, without a configuration that differs."""
    vae = tiny_vae()
    with torch.no_grad():
        for parameter in vae.decoder.parameters():
            parameter.mul_(1.5)
    return vae


def sjc_losses(vae: Any = None, scale: Any = 0.18215, **lambdas: float) -> tuple[SJCLosses, Any]:
    """SJC's losses, and the model that they read."""
    inner = SimpleNamespace(first_stage_model=CompVisAutoencoder(vae or tiny_vae()), scale_factor=scale)
    model = SimpleNamespace(model=inner)
    return SJCLosses(model, **{**LAMBDAS, **lambdas}), model
