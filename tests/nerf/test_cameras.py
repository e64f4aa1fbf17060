"""Cameras: where they stand, what they see, and what they refuse."""

from __future__ import annotations

import math

import pytest
import torch

from ldp_fast.nerf import Cameras


def test_front_side_back_above() -> None:
    cameras = Cameras.orbit([0.0, 90.0, 180.0, 0.0], [0.0, 0.0, 0.0, 90.0], radius=2.0)
    wanted = torch.tensor([[0.0, 0, 2], [2, 0, 0], [0, 0, -2], [0, 2, 0]])
    torch.testing.assert_close(cameras.positions, wanted, atol=1e-6, rtol=0)


def test_the_middle_ray_looks_at_the_target() -> None:
    target = (0.3, -0.2, 0.1)
    cameras = Cameras.orbit([10.0, 130.0, 250.0], [5.0, 40.0, 90.0], 3.0, 50.0, target=target)
    origins, directions = cameras.rays(5, 5)
    middle = torch.arange(3) * 25 + 12
    hit = origins[middle] + 3.0 * directions[middle]
    torch.testing.assert_close(hit, torch.tensor(target).expand(3, 3), atol=1e-5, rtol=0)


def test_up_is_up_and_right_is_right() -> None:
    _, directions = Cameras.orbit(0.0, 0.0).rays(3, 3)
    grid = directions.view(3, 3, 3)
    assert grid[0, 1, 1] > 0 > grid[2, 1, 1], "the first row looks upwards"
    assert grid[1, 0, 0] < 0 < grid[1, 2, 0], "from the front, +x is on the right"


def test_field_of_view_reaches_the_edges() -> None:
    _, directions = Cameras.orbit(0.0, 0.0, fov=60.0).rays(1000, 1)
    angle = math.degrees(math.acos(float((directions[0] * directions[-1]).sum().clamp(max=1))))
    assert angle == pytest.approx(60.0, abs=0.1)


def test_directions_have_length_one_and_rows_come_first() -> None:
    origins, directions = Cameras.orbit([0.0, 45.0]).rays(2, 3)
    assert origins.shape == directions.shape == (12, 3)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(12))
    assert torch.equal(origins[:6], origins[:1].expand(6, 3)) and not torch.equal(origins[0], origins[6])


@pytest.mark.parametrize("elevation", [-30.0, 0.0, 20.0, 90.0])
def test_angles_come_back(elevation: float) -> None:
    cameras = Cameras.orbit([0.0, 33.0, 181.0, 359.0], elevation)
    difference = (cameras.azimuth - torch.tensor([0.0, 33.0, 181.0, 359.0]) + 180).remainder(360) - 180
    assert difference.abs().max() < 1e-3
    assert (cameras.elevation - elevation).abs().max() < 0.05  # arcsine near 90° in float32


def test_sampling_stays_in_its_ranges_and_repeats_by_seed() -> None:
    def draw() -> Cameras:
        return Cameras.sample(
            200, azimuth=(20, 70), elevation=(-5, 55), radius=(2, 3), generator=torch.Generator().manual_seed(1)
        )

    cameras = draw()
    distance = cameras.positions.norm(dim=-1)
    assert ((distance >= 2 - 1e-5) & (distance <= 3 + 1e-5)).all()
    assert ((cameras.azimuth > 20 - 1e-3) & (cameras.azimuth < 70 + 1e-3)).all()
    assert ((cameras.elevation > -5.01) & (cameras.elevation < 55.01)).all()
    assert torch.equal(cameras.poses, draw().poses)


def test_uniform_on_the_sphere() -> None:
    options = {"elevation": (-90.0, 90.0), "generator": torch.Generator().manual_seed(0)}
    heights = Cameras.sample(4000, radius=1.0, on_sphere=True, **options).positions[:, 1]
    assert abs(float((heights.abs() < 0.5).float().mean()) - 0.5) < 0.04, "height on a sphere is uniform"


def test_opencv_is_opengl_with_two_axes_turned() -> None:
    gl = Cameras.orbit([20.0, 200.0], 30.0, fov=40.0)
    cv = gl.poses.clone()
    cv[:, :3, 1:3] *= -1
    focal = gl.focal * torch.tensor([64.0, 48.0])
    back = Cameras.from_poses(cv, focal=focal, width=64, height=48, convention="opencv")
    for a, b in zip(back.rays(4, 6), gl.rays(4, 6), strict=True):
        torch.testing.assert_close(a, b)
    three = Cameras.from_poses(gl.poses[:, :3], focal=focal, width=64, height=48)
    torch.testing.assert_close(three.poses, gl.poses)


def test_resolution_does_not_change_the_view() -> None:
    cameras = Cameras.orbit(30.0)
    fine = cameras.rays(8, 8)[1].view(4, 2, 4, 2, 3).mean((1, 3)).view(16, 3)
    coarse = cameras.rays(4, 4)[1]
    assert (torch.nn.functional.normalize(fine, dim=-1) - coarse).abs().max() < 1e-3


def test_indexing_and_dtype() -> None:
    cameras = Cameras.orbit([0.0, 90.0, 180.0])
    assert len(cameras) == 3 and len(cameras[1]) == 1 and len(cameras[-1]) == 1 and len(cameras[1:]) == 2
    assert torch.equal(cameras[-1].poses, cameras.poses[2:])
    assert cameras.to(torch.float64).rays(2, 2)[0].dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cameras.orbit(float("nan")), "azimuth: expected finite numbers"),
        (lambda: Cameras.orbit(0.0, radius=0.0), "radius: expected positive numbers"),
        (lambda: Cameras.orbit(0.0, fov=180.0), "fov: expected degrees between 0 and 180"),
        (lambda: Cameras.orbit([0.0, 1.0], [0.0, 1.0, 2.0]), "one value or V values each"),
        (lambda: Cameras.sample(0), "count: expected a whole number of at least 1, got 0"),
        (lambda: Cameras.sample(1, radius=(3, 2)), "radius: expected a number or (low, high)"),
        (lambda: Cameras(torch.zeros(2, 3, 3), torch.ones(2, 2), torch.ones(2, 2)), "poses: expected shape [V, 4, 4]"),
        (lambda: Cameras(torch.eye(4)[None], torch.ones(2, 2), torch.ones(1, 2)), "focal: expected shape [1, 2]"),
        (lambda: Cameras(torch.full((1, 4, 4), torch.inf), torch.ones(1, 2), torch.ones(1, 2)), "infinity in camera 0"),
        (lambda: Cameras.orbit(0.0).rays(0, 4), "height: expected a whole number of at least 1, got 0"),
        (
            lambda: Cameras.from_poses(
                torch.eye(4)[None], focal=torch.ones(2), width=1, height=1, convention="blender"
            ),
            "convention: expected one of 'opengl', 'opencv', got 'blender'",
        ),
        (lambda: Cameras.from_poses(torch.eye(4), focal=torch.ones(2), width=1, height=1), "poses: expected a tensor"),
    ],
)
def test_refusals(make: object, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value), caught.value
