"""Cameras, rays and a background under `torch.set_default_device`: what is made of numbers does not land in two places.

`meta` stands for the other device: a tensor without an explicit device lands there and goes with no other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ldp_fast.nerf import Cameras, ConstantBackground, HashGrid, LatentField, LearnedBackground, OccupancyGrid

CPU = torch.device("cpu")
POSES = torch.eye(4).repeat(2, 1, 1)
POINTS = torch.rand(2, 2)

MAKERS: dict[str, Any] = {
    "orbit": lambda: Cameras.orbit([0.0, 90.0], 15.0, 3.6, 40.0, target=(0.1, 0.0, 0.0)),
    "orbit of tensors": lambda: Cameras.orbit(POINTS[0] * 90, POINTS[1]),
    "sample": lambda: Cameras.sample(3, on_sphere=True, generator=torch.Generator().manual_seed(0)),
    "from_poses": lambda: Cameras.from_poses(POSES, focal=30.0, width=32, height=24),
    "from_poses, numbers": lambda: Cameras.from_poses(
        POSES[:, :3], focal=(30.0, 31.0), centre=(16.0, 12.0), width=32, height=24, convention="opencv"
    ),
    "from_poses, tensors": lambda: Cameras.from_poses(POSES, focal=30 + POINTS, centre=POINTS, width=32, height=24),
    "of a list": lambda: Cameras.orbit([0.0, 90.0, 180.0])[[2, 0]],
    "of an array": lambda: Cameras.orbit([0.0, 90.0, 180.0])[np.array([2, 0])],
    "of truth values": lambda: Cameras.orbit([0.0, 90.0, 180.0])[[True, False, True]],
    "of a slice": lambda: Cameras.orbit([0.0, 90.0, 180.0])[1:],
}


@pytest.mark.parametrize("name", MAKERS)
def test_cameras(name: str) -> None:
    expected = MAKERS[name]()
    rays = expected.rays(3, 4)
    with torch.device("meta"):
        cameras = MAKERS[name]()
        found = (cameras.poses, cameras.focal, cameras.centre, cameras.azimuth, cameras.elevation, *cameras.rays(3, 4))
    wanted = (expected.poses, expected.focal, expected.centre, expected.azimuth, expected.elevation, *rays)
    for a, b in zip(found, wanted, strict=True):
        assert a.device == CPU and torch.equal(a, b)


def test_cameras_on_another_device_stay_there() -> None:
    poses = POSES.to("meta")
    for cameras in (
        Cameras.from_poses(poses, focal=30.0, centre=(16.0, 12.0), width=32, height=24),
        Cameras.from_poses(poses, focal=30.0, width=32, height=24),
    ):
        assert {x.device.type for x in (cameras.poses, cameras.focal, cameras.centre, *cameras.rays(2, 2))} == {"meta"}


def test_modules_are_on_the_default_device_in_all_their_parts() -> None:
    def modules() -> list[torch.nn.Module]:
        grid = HashGrid(n_levels=2, log2_table_size=6, base_resolution=4, finest_resolution=8)
        backgrounds = [
            ConstantBackground([0.0, 1.0]),
            ConstantBackground(torch.ones(2, device=CPU)),
            LearnedBackground(),
        ]
        return [LatentField(grid), OccupancyGrid(resolution=32), *backgrounds]

    for device in ("cpu", "meta"):
        with torch.device(device):
            made = modules()
        for module in made:
            places = {x.device.type for x in (*module.parameters(), *module.buffers())}
            assert places == {device}, type(module).__name__
