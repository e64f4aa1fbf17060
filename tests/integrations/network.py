"""A noise predictor that costs nothing at 64 × 64, for hosts that resize every latent to that."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from ..support.models import TEXT_WIDTH, scheduler


class Network(nn.Module):
    """diffusers' call; the output depends on every element of z_t's neighbourhood, on t and on the text."""

    def __init__(self, channels: int = 4):
        super().__init__()
        torch.manual_seed(1)
        self.conv_in = nn.Conv2d(channels, 8, 3, padding=1)
        self.text = nn.Linear(TEXT_WIDTH, 8)
        self.conv_out = nn.Conv2d(8, channels, 3, padding=1)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> UNet2DConditionOutput:
        """[R, C, H, W], t [] or [R] or [1], [R, L, D] → an object with `sample`."""
        condition = self.text(encoder_hidden_states.mean(1))[:, :, None, None]
        phase = (t.reshape(-1).float() / 100).cos().to(z.dtype).view(-1, 1, 1, 1)
        return UNet2DConditionOutput(sample=self.conv_out(torch.tanh(self.conv_in(z) + condition + phase)))


class PredictsV(nn.Module):
    """The same network, which tells v = (ε̂ − σ_t z_t) / α_t of Stable Diffusion's schedule in place of ε̂."""

    def __init__(self) -> None:
        super().__init__()
        self.of_noise = Network()
        self.register_buffer("bar", scheduler().alphas_cumprod, persistent=False)

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor) -> UNet2DConditionOutput:
        noise = self.of_noise(z, t, encoder_hidden_states).sample
        bar = self.bar[t].reshape(-1, 1, 1, 1)
        return UNet2DConditionOutput(sample=(noise - (1 - bar).sqrt() * z) / bar.sqrt())
