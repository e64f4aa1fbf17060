"""The whole renderer learns a known object: a torus of four latent channels from 64 views, judged on views held out."""

from __future__ import annotations

import math

import pytest
import torch

from ldp_fast.nerf import Cameras, FusedAdam, HashGrid, LatentField, LatentRenderer, OccupancyGrid

from .scenes import Torus

SIZE, STEPS, VIEWS = 32, 400, 64


@pytest.mark.slow
def test_a_torus_from_64_views_reaches_30_decibels_on_others() -> None:
    generator = torch.Generator().manual_seed(0)
    ranges = {"elevation": (-40.0, 80.0), "radius": 3.2, "fov": 38.0, "generator": generator}
    cameras, held_out = Cameras.sample(VIEWS, **ranges), Cameras.sample(8, **ranges)
    truth = LatentRenderer(Torus(), steps_per_ray=256).eval()
    with torch.no_grad():
        targets, wanted = truth(cameras, SIZE, SIZE).latents, truth(held_out, SIZE, SIZE).latents

    torch.manual_seed(0)
    field = LatentField(HashGrid(n_levels=8, log2_table_size=14, base_resolution=8, finest_resolution=128), hidden=32)
    occupancy = OccupancyGrid(resolution=64)
    renderer = LatentRenderer(field, occupancy, steps_per_ray=96)
    optimiser = FusedAdam(field.parameter_groups(2e-3), eps=1e-15)
    for step in range(STEPS):
        if step % 16 == 0:
            occupancy.update(field)
        chosen = torch.randint(VIEWS, (4,), generator=generator)
        out = renderer(cameras[chosen], SIZE, SIZE, seed=step)
        loss = (out.latents - targets[chosen]).square().mean()
        loss.backward()
        optimiser.step()

    renderer.eval()
    with torch.no_grad():
        seen = renderer(held_out, SIZE, SIZE)
    peak = float(wanted.max() - wanted.min())
    error = (seen.latents - wanted).square().mean()
    decibels = 10 * math.log10(peak**2 / float(error))
    assert decibels >= 30, f"{decibels:.1f} dB"
    assert 0 < float(occupancy.occupied_share()) < 0.5, "empty space was recognised"
