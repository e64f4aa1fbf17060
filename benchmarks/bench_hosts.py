"""A host's step, from the latents to their gradient: as the host computes it, as its adapter does, and with FM and KL.

The hosts' ways are re-written here from what they do: Latent-NeRF's one t and `latents.backward`, stable-dreamfusion's
squared distance to a target, its Perp-Neg by boolean indexing and its questions to the device, threestudio's decoded
estimate that nobody looks at. Rendering and encoding are the same on both sides and left out. `host` and `adapter`
compute the same gradient (tests/integrations); `adapter_fm_kl` adds the paper's two terms, which no host has.

    pytest benchmarks/bench_hosts.py -k "embedded" --benchmark-group-by=param:host,param:size
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldp_fast.integrations import latent_nerf, stable_dreamfusion, threestudio
from ldp_fast.integrations._core import HostLosses
from ldp_fast.integrations._live import Attribute, LiveSchedule

from . import image_hosts
from .timing import measure

WAYS = ("host", "adapter", "adapter_fm_kl")
SIZES = {"small": 8, "embedded": 16, "sd15": 64}
PAPER, ALONE = {"lambda_fm": 0.01, "lambda_kl": 0.1}, {"lambda_fm": 0.0, "lambda_kl": 0.0}
WEIGHTS = (1.0, -1.5, -0.7)  # of the prompt and of two negatives


class Host(nn.Module):
    """The attributes that hosts' objects have, around networks of one of `SIZES`."""

    def __init__(self, size: str, device: str, dtype: torch.dtype):
        super().__init__()
        self.unet, self.vae, self.scheduler, width = networks(size, device, dtype)
        self.alphas = self.scheduler.alphas_cumprod.to(device)
        self.min_step, self.max_step, self.latent_mode, self.device = 20, 980, True, device
        self.dtype = next(self.unet.parameters()).dtype
        generator = torch.Generator().manual_seed(0)
        self.text = torch.randn(4, 77, width, generator=generator).to(device, self.dtype)
        self.latents = torch.randn(1, 4, SIZES[size], SIZES[size], generator=generator).to(device).requires_grad_()
        self.picture = torch.zeros(1, 3, 8, 8, device=device)
        self.weights = torch.tensor(WEIGHTS, device=device)

    def encode_imgs(self, images: Tensor) -> Tensor:
        """The latents, which are the same on both sides."""
        return self.latents

    encode_images = encode_imgs

    def train_step(self) -> None:
        """Replaced."""

    train_step_perpneg = train_step

    def forward_unet(self, latents: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """threestudio's."""
        return self.unet(latents.to(self.dtype), t, encoder_hidden_states=encoder_hidden_states).sample.to(
            latents.dtype
        )

    def noised(self, shape: tuple[int, ...], copies: int, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """t, ε, z_t and the network's output, as all of them make them."""
        t = torch.randint(self.min_step, self.max_step + 1, shape, device=self.device)
        noise = torch.randn_like(self.latents)
        with torch.no_grad():
            noisy = self.scheduler.add_noise(self.latents, noise, t)
            z = torch.cat([noisy] * copies).to(self.dtype)
            times = t if shape == (1,) and copies == 2 else torch.cat([t] * copies)
            return t, noise, noisy, self.unet(z, times, encoder_hidden_states=text).sample


def networks(size: str, device: str, dtype: torch.dtype) -> tuple[Any, Any, Any, int]:
    """UNet, VAE, scheduler and the text's width; what a size needs and this machine lacks is skipped."""
    from tests.support import models

    if size == "small":
        return models.tiny_unet().to(device), models.tiny_vae().to(device), models.scheduler(), models.TEXT_WIDTH
    if size == "embedded":
        from ldp_fast import LatentDiffusionPrior

        prior = LatentDiffusionPrior.from_pretrained("primitives", device=device)
        return prior.unet, prior.vae, prior.scheduler, prior.unet.config.cross_attention_dim  # type: ignore[union-attr]
    if device != "cuda":
        pytest.skip("Stable Diffusion 1.5's architecture is timed on a GPU")
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device(device):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    frozen = [m.to(dtype).eval().requires_grad_(False) for m in (unet, vae)]
    return frozen[0], frozen[1], models.scheduler(), 768


def resized(images: Tensor) -> Tensor:
    """What the VAE takes, in the hosts."""
    return F.interpolate(images, (512, 512), mode="bilinear", align_corners=False)


def latent_nerf_host(host: Any) -> None:
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    uncond, text = out.chunk(2)
    guided = uncond + 100 * (text - uncond)
    w = host.alphas[t] ** 0.5 * (1 - host.alphas[t])
    host.latents.backward(gradient=w * (guided - noise), retain_graph=True)


def towards(host: Any, gradient: Tensor) -> None:
    """The gradient as half the squared distance to a target."""
    target = (host.latents - torch.nan_to_num(gradient)).detach()
    (0.5 * F.mse_loss(host.latents.float(), target, reduction="sum") / len(host.latents)).backward()


def stable_dreamfusion_host(host: Any) -> None:
    host.encode_imgs(resized(host.picture))
    t, noise, _, out = host.noised((1,), 2, host.text[:2])
    uncond, text = out.chunk(2)
    guided = uncond + 100 * (text - uncond)
    towards(host, (1 - host.alphas[t]).view(-1, 1, 1, 1) * (guided - noise))


def stable_dreamfusion_perp_neg_host(host: Any) -> None:
    host.encode_imgs(resized(host.picture))
    t, noise, _, out = host.noised((1,), 4, host.text)
    assert bool((host.weights[:1] == 1).all())
    uncond, positive, *negatives = out.split(1)
    positive = positive - uncond
    added = torch.zeros_like(positive)
    for w, negative in zip(host.weights[1:].split(1), negatives, strict=True):
        used = w.abs() > 1e-4
        if not bool(used.any()):
            continue
        e, p = (negative - uncond)[used], positive[used]
        rows = [x - (x * y).sum() / max(y.norm() ** 2, 1e-6) * y for x, y in zip(e, p, strict=True)]
        added[used] += w[used].view(-1, 1, 1, 1) * torch.stack(rows)
    guided = uncond + 100 * (positive + added)
    towards(host, (1 - host.alphas[t]).view(-1, 1, 1, 1) * (guided - noise))


def threestudio_host(host: Any) -> None:
    host.encode_imgs(resized(host.picture))
    t, noise, noisy, out = host.noised((1,), 2, host.text[:2])
    text, uncond = out.chunk(2)
    guided = text + 100 * (text - uncond)
    bar = host.alphas[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        estimate = (noisy - (1 - bar) ** 0.5 * guided) / bar**0.5
        host.vae.decode((estimate / host.vae.config.scaling_factor).to(host.vae.dtype))
    towards(host, (1 - bar) * (guided - noise))


def latent_nerf_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    latent_nerf.wrap(host, **lambdas)
    return lambda: host.train_step(host.text[:2], host.latents)


def stable_dreamfusion_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    stable_dreamfusion.wrap(host, **lambdas)
    return lambda: host.train_step(host.text[:2], host.picture).backward()


def stable_dreamfusion_perp_neg_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    stable_dreamfusion.wrap(host, **lambdas)
    return lambda: host.train_step_perpneg(host.text, host.weights, host.picture).backward()


def threestudio_adapter(host: Any, lambdas: dict[str, float]) -> Callable[[], None]:
    """The λ's are the system's there; the guidance is told what to compute."""
    on = lambdas["lambda_fm"] != 0
    host.cfg = SimpleNamespace(
        guidance_scale=100.0, use_sjc=False, weighting_strategy="sds", feature_matching=on, kl=on, var_red=True
    )
    host.losses = HostLosses(Attribute(host, "vae"), float(on), float(on), nonfinite="zero")
    host.schedule, host.grad_clip_val = LiveSchedule(host), None
    prompts = SimpleNamespace(use_perp_neg=False, get_text_embeddings=lambda *views: host.text[:2])
    rgb, views = host.picture.permute(0, 2, 3, 1), (None, None, None, True)

    def run() -> None:
        out = threestudio.step(host, rgb, prompts, views, False, False)
        loss = out["loss_sds"]
        if on:
            loss = loss + lambdas["lambda_fm"] * out["loss_fm"] + lambdas["lambda_kl"] * out["loss_kl"]
        loss.backward()

    return run


HOSTS: dict[str, tuple[Callable[[Any], None], Callable[[Any, dict[str, float]], Callable[[], None]]]] = {
    "latent_nerf": (latent_nerf_host, latent_nerf_adapter),
    "stable_dreamfusion": (stable_dreamfusion_host, stable_dreamfusion_adapter),
    "stable_dreamfusion_perp_neg": (stable_dreamfusion_perp_neg_host, stable_dreamfusion_perp_neg_adapter),
    "threestudio": (threestudio_host, threestudio_adapter),
    **image_hosts.HOSTS,
}


def precision(device: str) -> AbstractContextManager[Any]:
    """The hosts' trainers run under float16 autocast on a GPU."""
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("host", HOSTS)
def test_step(benchmark: Any, device: str, host: str, size: str, way: str) -> None:
    # Latent-NeRF keeps float32 weights, the others load half precision.
    made = Host(size, device, torch.float32 if host == "latent_nerf" or device == "cpu" else torch.float16)
    theirs, ours = HOSTS[host]
    step = (lambda: theirs(made)) if way == "host" else ours(made, PAPER if way == "adapter_fm_kl" else ALONE)
    benchmark.group = f"{host} step {size} {device}"
    benchmark.extra_info |= {"op": f"{host} step", "backend": way, "shape": list(made.latents.shape)}

    def timed() -> None:
        made.latents.grad = None
        with precision(device):
            step()

    timed()
    assert made.latents.grad is not None and made.latents.grad.isfinite().all()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        timed()
        benchmark.extra_info["peak_megabytes"] = round((torch.cuda.max_memory_allocated() - before) / 2**20)
    measure(benchmark, timed, device, graph=False)
