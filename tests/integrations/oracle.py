"""What the hosts' tests compare with: the paper's gradient by plain autograd, through the VAE's own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

PAPER = {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0}
ALONE = {"lambda_fm": 0.0, "lambda_kl": 0.0, "lambda_lsd": 1.0}


def features(vae: Any, latents: Tensor) -> list[Tensor]:
    """Outputs of diffusers' first three up-blocks, heard while the whole VAE decodes."""
    found: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for block in vae.decoder.up_blocks[:3]
    ]
    try:
        vae.decode(latents / vae.config.scaling_factor)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def regularisers(vae: Any, v: Tensor, r: Tensor, alpha: Tensor, lambda_fm: float, lambda_kl: float) -> Tensor:
    """Gradient of λ1·N·L_FM + λ2·N·L_KL of each sample, by Eq. 2 and 3; alpha [B]  # [B, C, H, W]"""
    v, a = v.detach().clone().requires_grad_(), alpha.reshape(-1, 1, 1, 1)
    prime = (1 + a) * v - (a * v).detach() + r.detach()
    loss = torch.zeros(())
    if lambda_fm:
        pairs = zip(features(vae, v), features(vae, prime), strict=True)
        loss = loss + lambda_fm * sum((x - y).abs().flatten(1).mean(1) for x, y in pairs).sum()
    mean, variance = v.flatten(1).mean(1), v.flatten(1).var(1, unbiased=False)
    loss = loss + lambda_kl * 0.5 * (mean**2 + variance - variance.log() + 1).sum()
    return torch.autograd.grad(loss * v[0].numel(), v)[0]


def assert_same(ours: Tensor, theirs: Tensor, tolerance: float = 1e-4) -> None:
    """The difference is below a fraction of the norm: guidance scales of 100 make float32's rounding this large."""
    assert ours.shape == theirs.shape and ours.isfinite().all() and theirs.norm() > 0
    assert (ours - theirs).norm() <= tolerance * theirs.norm()


class FakeHost(nn.Module):
    """A host's object as far as an adapter reads it; what a test needs more is set as an attribute."""

    def __init__(self, **attributes: Any):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)

    def encode_imgs(self, images: Tensor) -> Tensor:
        """Most hosts': a sample of the posterior of 2x − 1, times 0.18215. Of smaller images, to be done sooner."""
        images = images[..., ::8, ::8] if images.shape[-1] == 512 else images
        return self.vae.encode(2 * images - 1).latent_dist.sample() * 0.18215

    def train_step(self) -> None:
        """What is replaced."""


def options(**values: Any) -> SimpleNamespace:
    """A host's command line."""
    return SimpleNamespace(**values)
