"""Trains the embedded AutoencoderKL: 128 px images to 4×16×16 latents."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import loop
from .data import RenderedImages

KL_WEIGHT = 2e-3
# Two stages: crops first (the object's edges and colours at a quarter of the cost), whole images at the end, so that
# the statistics of the norms and the attention are those of whole images.
CROP_FRACTION = 0.6


def build() -> Any:
    """A fresh, untrained VAE: 1.0 M parameters, ×8 downsampling, 4 latent channels."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=128,
    )


def reconstruction_loss(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + L2, and L1 of the 4× and 16× pooled images: the pooled terms are what makes colours true.

    Args:
        image: `[B, 3, H, W]` in [-1, 1].
        target: `[B, 3, H, W]` in [-1, 1].
    """
    loss = F.l1_loss(image, target) + 4 * F.mse_loss(image, target)
    for size in (4, 16):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(image, size), F.avg_pool2d(target, size))
    return loss


def train(folder: pathlib.Path, out: pathlib.Path, *, seed: int, steps: int, batch: int = 16, amp: bool = True) -> None:
    """Trains and writes the averaged weights to `out` in diffusers' format."""
    data = RenderedImages(folder / "data", "train")
    torch.manual_seed(seed)
    vae = build()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae.to(device)

    def loss_at(step: int):
        rng = np.random.default_rng((seed, 1, step))
        whole = step >= CROP_FRACTION * steps
        size, count = (128, batch // 2) if whole else (64, batch)
        picked = []
        for index in rng.integers(len(data), size=count):
            top, left = rng.integers(0, 128 - size + 1, size=2)
            crop = data.images[index, top : top + size, left : left + size]
            picked.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
        target = torch.from_numpy(np.stack(picked)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            posterior = vae.encode(target).latent_dist
            image = vae.decode(posterior.sample(generator)).sample
        loss = reconstruction_loss(image.float(), target)
        kl = posterior.kl().float().sum() / posterior.mean.numel()
        mse = F.mse_loss(image.detach().float(), target) / 4
        return loss + KL_WEIGHT * kl, {"psnr": float(-10 * mse.log10()), "kl": float(kl.detach())}

    checkpoint = folder / "checkpoints" / "vae.pt"
    vae.load_state_dict(loop.train(vae, loss_at, steps=steps, peak_rate=2e-3, checkpoint=checkpoint, name="vae"))
    # The scaling factor makes the latents' standard deviation 1, as Stable Diffusion's does.
    vae.eval()
    with torch.no_grad():
        picks = np.random.default_rng((seed, 2)).choice(len(data), min(512, len(data)), replace=False)
        images = torch.from_numpy(data.images[picks]).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = torch.cat([vae.encode(x.to(device)).latent_dist.sample() for x in images.split(32)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    vae.save_pretrained(out / "vae")
