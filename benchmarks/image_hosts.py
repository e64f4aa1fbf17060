"""More hosts for `bench_hosts`: SJC, StyleGAN-Fusion, Text2LIVE, DreamGaussian, nerfstudio and ProlificDreamer.

Re-written from what they do: SJC looks for its noise level on the CPU, StyleGAN-Fusion waits for the number that it
prints, ProlificDreamer asks whether the rendering has a NaN. Text2LIVE has no diffusion model: its row `host` is the
paper's distillation as one would write it beside `LossG`, image by image. `host` below is `bench_hosts.Host`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldp_fast.guidance import LatentDiffusionPrior, TextEmbeddings
from ldp_fast.integrations import dreamgaussian, nerfstudio, prolificdreamer, stylegan_fusion
from ldp_fast.integrations.sjc import SJCLosses
from ldp_fast.integrations.text2live import LayeredGuidance
from tests.support.models import CompVisAutoencoder

Adapter = Callable[[Any, dict[str, float]], Callable[[], None]]


def towards(latents: Tensor, gradient: Tensor) -> None:
    """The gradient as half the squared distance to a target."""
    target = (latents - torch.nan_to_num(gradient)).detach()
    (0.5 * nn.functional.mse_loss(latents.float(), target, reduction="sum") / len(latents)).backward()


def encoded(host: Any) -> Tensor:
    """The three hosts of images resize what they are given."""
    return host.encode_imgs(nn.functional.interpolate(host.picture, (512, 512), mode="bilinear"))


def sjc_levels(host: Any) -> np.ndarray:
    bar = host.alphas.double().cpu().numpy()
    return np.sqrt((1 - bar) / bar)[::-1]


def sjc_denoised(host: Any, zs: Tensor, sigma: Tensor, levels: np.ndarray) -> Tensor:
    """The nearest level is looked for on the host, as SJC does."""
    nearest = [int(np.abs(level - levels).argmin()) for level in sigma.reshape(-1).cpu().numpy()]
    t = torch.tensor([len(levels) - 1 - j for j in nearest], device=zs.device)
    sigma = torch.tensor([levels[j] for j in nearest], device=zs.device, dtype=torch.float32).view(-1, 1, 1, 1)
    z = torch.cat([zs / (1 + sigma**2).sqrt()] * 2).to(host.dtype)
    with torch.no_grad():
        uncond, text = host.unet(z, torch.cat([t] * 2), encoder_hidden_states=host.text[:2]).sample.chunk(2)
    return zs - sigma * (uncond + 100 * (text - uncond)).float()


def sjc_drawn(host: Any, levels: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    sigma = np.random.choice(levels[30:-10], 1).reshape(-1, 1, 1, 1)
    sigma = torch.as_tensor(sigma, device=host.device, dtype=torch.float32)
    zs = host.latents.detach() + sigma * torch.randn_like(host.latents)
    return zs, sjc_denoised(host, zs, sigma, levels), sigma


def sjc_host(host: Any) -> None:
    _, denoised, sigma = sjc_drawn(host, sjc_levels(host))
    gradient = ((denoised - host.latents.detach()) / sigma).mean(0, keepdim=True)
    host.latents.backward(-gradient, retain_graph=True)


def sjc_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    inner = SimpleNamespace(first_stage_model=CompVisAutoencoder(host.vae), scale_factor=0.18215)
    losses = SJCLosses(SimpleNamespace(model=inner), **lambdas)

    def run() -> None:
        step = sjc_drawn(host, sjc_levels(host))
        host.latents.backward(losses.gradient(host.latents, *step)[0], retain_graph=True)

    return run


def stylegan_fusion_host(host: Any) -> None:
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    uncond, text = out.chunk(2)
    difference = uncond + 100 * (text - uncond) - noise
    gradient = torch.nan_to_num(((1 - host.alphas[t]) * difference).clamp(-1, 1))
    number = difference.pow(2).mean().item()
    assert number > 0
    host.latents.backward(gradient, retain_graph=True)


def stylegan_fusion_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    host.text_embeddings = host.text[:2]
    host.args = SimpleNamespace(CFG=100, min_step=20, max_step=980, rescaleCFG_Noise=False, EG3D=False)
    stylegan_fusion.wrap(host, **lambdas)
    return lambda: host.latents.backward(host.train_step(host.latents)[0], retain_graph=True)


def text2live_images(host: Any) -> list[Tensor]:
    """A whole image and, of the same size, a second one: what the latents' side asks for."""
    side = 8 * host.latents.shape[-1]
    return [torch.full((3, side, side), value, device=host.device) for value in (0.3, 0.6)]


def text2live_host(host: Any) -> None:
    """v″ = E(I′) + θ for each image, and the gradient w r, w = 1; θ are the latents here."""
    for image in text2live_images(host):
        encoding = host.vae.encode((2 * image[None] - 1).to(host.dtype)).latent_dist.sample()
        latents = encoding.float() * host.vae.config.scaling_factor + host.latents
        t, noise = torch.randint(20, 981, (1,), device=host.device), torch.randn_like(latents)
        with torch.no_grad():
            noisy = torch.cat([host.scheduler.add_noise(latents, noise, t)] * 2).to(host.dtype)
            out = host.unet(noisy, torch.cat([t] * 2), encoder_hidden_states=host.text[:2]).sample
        uncond, text = out.chunk(2)
        towards(latents, (uncond + 100 * (text - uncond) - noise) / 2)


def text2live_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    prior = LatentDiffusionPrior(host.unet, host.vae, host.scheduler)
    prior = prior.with_settings(**lambdas, lambda_lsd=1.0, guidance_scale=100.0)
    images = text2live_images(host)
    side = images[0].shape[-1]
    text = TextEmbeddings(host.text[1:2], host.text[:1])
    guidance = LayeredGuidance(prior, text, (side, side), size=side, multiple=side)
    outputs = {"output_image": {"composite": images, "alpha": [image[:1] for image in images]}}

    def run() -> None:
        guidance.theta.grad = None
        guidance(outputs)["loss_ldp"].backward()
        host.latents.grad = guidance.theta.grad

    return run


def dreamgaussian_host(host: Any) -> None:
    latents = encoded(host)
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    text, uncond = out.chunk(2)
    guided = uncond + 100 * (text - uncond)
    towards(latents, (1 - host.alphas[t]).view(-1, 1, 1, 1) * (guided - noise))


def dreamgaussian_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    host.embeddings = {"pos": host.text[:1], "neg": host.text[1:2]}
    dreamgaussian.wrap(host, **lambdas)
    return lambda: host.train_step(host.picture).backward()


def nerfstudio_host(host: Any) -> None:
    latents = encoded(host)
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    uncond, text = out.chunk(2)
    guided = text + 100 * (text - uncond)
    towards(latents, (1 - host.alphas[t]).view(-1, 1, 1, 1) * (guided - noise))


def nerfstudio_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    host.auto_encoder, host.imgs_to_latent, host.sds_loss = host.vae, host.encode_imgs, host.train_step
    nerfstudio.wrap(host, **lambdas)
    return lambda: host.sds_loss(host.text[:2], host.picture).backward()


def prolificdreamer_host(host: Any) -> None:
    assert torch.isnan(host.picture).sum() == 0
    latents = encoded(host)
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    uncond, text = out.chunk(2)
    guided = uncond + 100 * (text - uncond)
    w = 1 - host.alphas[t]
    gradient = torch.nan_to_num(w * (guided - noise))
    (w * guided * latents.detach()).sum()
    latents.backward(gradient / len(gradient))


def prolificdreamer_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    host.opt = SimpleNamespace(latent=False, sds=True, v_pred=False)
    prolificdreamer.wrap(host, **lambdas)
    return lambda: host.train_step(host.text[:2], host.picture)[0].backward()


HOSTS: dict[str, tuple[Callable[[Any], None], Adapter]] = {
    "sjc": (sjc_host, sjc_adapter),
    "stylegan_fusion": (stylegan_fusion_host, stylegan_fusion_adapter),
    "text2live": (text2live_host, text2live_adapter),
    "dreamgaussian": (dreamgaussian_host, dreamgaussian_adapter),
    "nerfstudio": (nerfstudio_host, nerfstudio_adapter),
    "prolificdreamer": (prolificdreamer_host, prolificdreamer_adapter),
}
