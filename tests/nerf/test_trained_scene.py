"""The whole renderer learns a known object: a torus of four latent channels from 64 views, judged on views held out."""

from __future__ import annotations

import pytest
import torch

from .scenes import decibels, train_torus


@pytest.mark.slow
def test_a_torus_from_64_views_reaches_30_decibels_on_others() -> None:
    result = train_torus()
    result.renderer.eval()
    with torch.no_grad():
        seen, truth = result.renderer(result.held_out, 32, 32), result.truth(result.held_out, 32, 32)
    assert decibels(seen.latents, truth.latents) >= 30
    assert decibels(torch.zeros_like(seen.latents), truth.latents) < 20, "an empty picture is not a success"
    assert 0 < float(result.occupancy.occupied_share()) < 0.5, "empty space was recognised"
