"""Trains the embedded UNet2DConditionModel on the VAE's latents, conditioned on the CLIP text tower."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import loop, world
from .clip import tokenize
from .data import RenderedImages

CAPTION_DROPOUT = 0.12
SNR_CAP = 5.0
BACKGROUNDS = 2  # greys that each image is encoded before


def build(text_width: int = 128) -> Any:
    """A fresh, untrained UNet for 4×16×16 latents."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 80),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=text_width,
        attention_head_dim=4,
    )


def scheduler() -> Any:
    """Stable Diffusion's own schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_data(data: RenderedImages, vae: Any, cache: pathlib.Path, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of scaled latents, kept in `cache`.

    Returns:
        `[BACKGROUNDS, N, 4, 16, 16]` twice: every image before as many greys.
    """
    if cache.exists():
        saved = torch.load(cache, weights_only=True)
        return saved["mean"], saved["std"]
    device, means, stds = next(vae.parameters()).device, [], []
    for turn in range(BACKGROUNDS):
        greys = np.random.default_rng((seed, 5, turn)).uniform(*world.BACKGROUNDS, len(data))
        for picks in np.array_split(np.arange(len(data)), max(1, len(data) // 64)):
            posterior = vae.encode(torch.from_numpy(data.pictures(picks, greys[picks])).to(device)).latent_dist
            means.append(posterior.mean.cpu() * vae.config.scaling_factor)
            stds.append(posterior.std.cpu() * vae.config.scaling_factor)
    mean, std = (torch.cat(x).view(BACKGROUNDS, len(data), *x[0].shape[1:]) for x in (means, stds))
    torch.save({"mean": mean, "std": std}, cache)
    return mean, std


def train(
    folder: pathlib.Path,
    out: pathlib.Path,
    *,
    seed: int,
    steps: int,
    batch: int = 32,
    start: pathlib.Path | None = None,
) -> None:
    """Trains and writes the averaged weights to `out/unet`, and the schedule to `out/scheduler`.

    With `start` from the weights in `start/unet`, which saves half of the steps, in place of random ones.
    """
    data = RenderedImages(folder / "data", "train")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae: Any = AutoencoderKL.from_pretrained(out / "vae").eval().to(device)
    mean, std = encode_data(data, vae, folder / "checkpoints" / "latents.pt", seed)
    tokenizer = CLIPTokenizer.from_pretrained(out / "tokenizer")
    text_encoder: Any = CLIPTextModel.from_pretrained(out / "text_encoder").eval().to(device)
    torch.manual_seed(seed)
    unet = build(text_encoder.config.hidden_size).to(device)
    if start is not None:
        unet.load_state_dict(
            UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32).state_dict()
        )
    amp = loop.quick_in_bfloat16(device)
    alphas_cumprod = scheduler().alphas_cumprod.to(device)

    def loss_at(step: int):
        rng = np.random.default_rng((seed, 4, step))
        picks = rng.integers(len(data), size=batch)
        captions = [
            "" if rng.random() < CAPTION_DROPOUT else world.training_caption(rng, data.scenes[i], data.views[i])
            for i in picks
        ]
        with torch.no_grad():
            text = text_encoder(tokenize(tokenizer, captions).to(device)).last_hidden_state
        shape = (batch, *mean.shape[2:])
        turns = rng.integers(BACKGROUNDS, size=batch)
        posterior_noise, noise = (torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2))
        latents = (mean[turns, picks] + std[turns, picks] * posterior_noise).to(device)
        noise = noise.to(device)
        # Stratified timesteps: one in each of `batch` equal parts of the schedule.
        timesteps = torch.from_numpy((np.arange(batch) + rng.random(batch)) / batch * 1000).long().to(device)
        alpha_bar = alphas_cumprod[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            predicted = unet(noisy, timesteps, text).sample
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        # Min-SNR weighting with a floor: nearly clean latents teach little, but score distillation visits them too.
        snr = (alpha_bar / (1 - alpha_bar)).flatten()
        loss = (error * (SNR_CAP / snr).clamp(0.2, 1)).mean()
        return loss, {"loss": float(loss.detach()), "mse": float(error.detach().mean())}

    checkpoint = folder / "checkpoints" / "unet.pt"
    unet.load_state_dict(
        loop.train(unet, loss_at, steps=steps, peak_rate=1.2e-3, ema_decay=0.998, checkpoint=checkpoint, name="unet")
    )
    unet.eval().save_pretrained(out / "unet")
    scheduler().save_pretrained(out / "scheduler")
