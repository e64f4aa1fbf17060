"""Trains the embedded AutoencoderKL: 128 px images to 4×16×16 latents.

Its latents are linear in colour, nearly: three of the channels follow the mean colour of a latent's 8×8 pixels. Stable
Diffusion's are so by themselves; a VAE of a world with eight colours is not. It puts the eight somewhere, and half-way
between red and purple may lie green. A radiance field of latents composites them, at every outline, in every fog and at
every border of a stripe, so what lies between two colours has to be the mixture of both.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from . import loop, world
from .data import RenderedImages

KL_WEIGHT = 2e-3
# Brightness, red against blue, green against both: rows of an orthonormal matrix, so that neither is favoured.
COLOUR_AXES = ((0.5774, 0.5774, 0.5774), (0.7071, 0.0, -0.7071), (-0.4082, 0.8165, -0.4082))
# What mean colours are divided by along these axes, and the grey that is taken off: standard deviations and middle of
# the data, so that each channel's variance is about 1, as the KL term wants it.
COLOUR_SPREAD = (0.42, 0.36, 0.22)
MIDDLE_GREY = -0.13
# Kinds of pictures in training, by how often: a solid before a grey; a solid that is fog, which unfinished objects
# are; two pictures mixed; smooth colours, which a wrong object may have anywhere.
KINDS = {"solid": 0.7, "fog": 0.18, "mixed": 0.08, "smooth": 0.04}
# Three stages, each with the side of its crops, its share of the steps and the weight of what makes latents linear.
# Small crops first (colours and edges at a quarter of the cost), whole images at the end, so that the statistics of
# the norms and the attention are those of whole images. Once colours are where they should be a weak pull keeps them
# there: at its full weight the encoder could not say where within a latent an edge runs, and cones lost their tips.
STAGES = ((64, 0.35, 1.0), (96, 0.35, 0.15), (128, 0.3, 0.15))


def stage_of(progress: float) -> tuple[int, float]:
    """Side of the crops, and weight of the linear term, at a fraction of the training."""
    ends = itertools.accumulate(share for _, share, _ in STAGES)
    stage = sum(progress >= end for end in ends)
    size, _, weight = STAGES[min(stage, len(STAGES) - 1)]
    return size, weight


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


def wanted_latents(image: torch.Tensor) -> torch.Tensor:
    """The first three channels that an image's latents should have, before scaling.

    Args:
        image: `[B, 3, H, W]` in [-1, 1].

    Returns:
        `[B, 3, H/8, W/8]`.
    """
    axes = torch.tensor(COLOUR_AXES, device=image.device) / torch.tensor(COLOUR_SPREAD, device=image.device)[:, None]
    return torch.einsum("oc,bchw->bohw", axes, F.avg_pool2d(image, 8) - MIDDLE_GREY)


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


def training_pictures(rng: np.random.Generator, data: RenderedImages, count: int, size: int) -> torch.Tensor:
    """Pictures of all `KINDS` `[count, 3, size, size]` in [-1, 1]: crops of rendered ones, half of them mirrored."""

    def drawn(opacity: np.ndarray | float) -> np.ndarray:
        greys = rng.uniform(0.15, 0.75, (count, 1)) + rng.normal(0, 0.02, (count, 3))
        return data.pictures(rng.integers(len(data), size=count), greys, opacity)

    kinds = rng.choice(list(KINDS), p=list(KINDS.values()), size=count)
    images = drawn(np.where(kinds == "fog", rng.uniform(0, 1, count), 1.0))
    share = np.where(kinds == "mixed", rng.uniform(0, 1, count), 1.0).astype(np.float32)[:, None, None, None]
    images = share * images + (1 - share) * drawn(1.0)
    coarse = torch.from_numpy(rng.uniform(-1, 1, (count, 3, 3, 3)).astype(np.float32))
    smooth = F.interpolate(coarse, (128, 128), mode="bilinear").numpy()
    images = np.where((kinds == "smooth")[:, None, None, None], smooth, images)
    cut = []
    for image in images:
        top, left = rng.integers(0, 128 - size + 1, size=2)
        crop = image[:, top : top + size, left : left + size]
        cut.append(crop[:, :, ::-1] if rng.random() < 0.5 else crop)
    return torch.from_numpy(np.stack(cut))


def train(folder: pathlib.Path, out: pathlib.Path, *, seed: int, steps: int, batch: int = 16) -> None:
    """Trains and writes the averaged weights to `out` in diffusers' format."""
    data = RenderedImages(folder / "data", "train")
    torch.manual_seed(seed)
    vae = build()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae.to(device)
    amp = loop.quick_in_bfloat16(device)

    def loss_at(step: int):
        rng = np.random.default_rng((seed, 1, step))
        size, linear_weight = stage_of(step / steps)
        target = training_pictures(rng, data, batch if size == 64 else batch // 2, size).to(device)
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            posterior = vae.encode(target).latent_dist
            image = vae.decode(posterior.sample(generator)).sample
        loss = reconstruction_loss(image.float(), target)
        kl = posterior.kl().float().sum() / posterior.mean.numel()
        linear = F.mse_loss(posterior.mean[:, :3].float(), wanted_latents(target))
        mse = F.mse_loss(image.detach().float(), target) / 4
        shown = {"psnr": float(-10 * mse.log10()), "kl": float(kl.detach()), "linear": float(linear.detach())}
        return loss + KL_WEIGHT * kl + linear_weight * linear, shown

    checkpoint = folder / "checkpoints" / "vae.pt"
    vae.load_state_dict(loop.train(vae, loss_at, steps=steps, peak_rate=2e-3, checkpoint=checkpoint, name="vae"))
    # The scaling factor makes the latents' standard deviation 1, as Stable Diffusion's does.
    vae.eval()
    with torch.no_grad():
        picks = np.random.default_rng((seed, 2)).choice(len(data), min(512, len(data)), replace=False)
        greys = np.random.default_rng((seed, 6)).uniform(*world.BACKGROUNDS, len(picks))
        images = torch.from_numpy(data.pictures(picks, greys))
        latents = torch.cat([vae.encode(x.to(device)).latent_dist.sample() for x in images.split(32)])
    vae.register_to_config(scaling_factor=round(1 / float(latents.std()), 5))
    vae.save_pretrained(out / "vae")
