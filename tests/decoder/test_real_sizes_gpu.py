"""Stable Diffusion 1.5's decoder, random weights, at its real widths: latents of 64×64, levels up to 512×512."""

from __future__ import annotations

import pytest
import torch

from ldp_fast.decoder import FrozenDecoder

from ..support.gpu import needs_memory, size
from .common import all_levels, check_features, kl

pytestmark = [pytest.mark.gpu, pytest.mark.real_size]

WIDTHS = size((128, 256, 512, 512), (16, 32, 32, 32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_features_and_gradient_by_the_rule(dtype: torch.dtype) -> None:
    needs_memory(50)
    with torch.device("cuda"):  # where its weights are drawn: a CPU takes seconds
        vae = kl(WIDTHS, groups=size(32, 8), latent_channels=4, scaling_factor=0.18215).to(dtype)
    side = size(64, 8)
    latents = torch.randn(1, 4, side, side, device="cuda")
    decoder = FrozenDecoder(vae, all_levels(vae), dtype=dtype)
    assert decoder.features(latents)[-1].shape[-2:] == (8 * side, 8 * side)
    check_features(vae, decoder, latents)
