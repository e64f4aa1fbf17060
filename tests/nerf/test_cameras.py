"""Cameras: where they stand, what they see, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

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


def test_poses_may_be_scaled_and_mirrored() -> None:
    poses = Cameras.orbit([0.0, 90.0]).poses
    poses[:, :3, :3] *= 1e-3
    poses[1, :3, 0] *= -1
    assert len(posed(poses, focal=1.0)) == 2


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


def test_iterating_ends_and_yields_batches_of_one() -> None:
    cameras = Cameras.orbit([0.0, 90.0, 180.0])
    singles = list(cameras)
    assert [len(camera) for camera in singles] == [1, 1, 1]
    assert torch.equal(torch.cat([camera.poses for camera in singles]), cameras.poses)


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, torch.tensor])
def test_every_kind_of_index(kind: Any) -> None:
    cameras = Cameras.orbit([0.0, 90.0, 180.0])
    for place in range(3):
        assert torch.equal(cameras[kind(place)].poses, cameras.poses[place : place + 1])
    for chosen in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        assert torch.equal(cameras[chosen].poses, cameras.poses[[2, 0]])
    assert len(cameras[cameras.azimuth > 45]) == 2 and len(cameras[[]]) == 0


@pytest.mark.parametrize("index", [3, -4, np.int64(7)])
def test_an_index_out_of_range(index: int) -> None:
    with pytest.raises(IndexError, match=f"Cameras: index: expected one of 3 cameras, got {index}"):
        Cameras.orbit([0.0, 90.0, 180.0])[index]


@pytest.mark.parametrize("index", ["a", 1.5, None, (0, 1)])
def test_what_is_no_index(index: Any) -> None:
    with pytest.raises(TypeError, match="Cameras: index: expected an index, a slice or a tensor of indices, got"):
        Cameras.orbit([0.0, 90.0, 180.0])[index]


def test_rays_have_the_bits_of_plain_rounded_arithmetic() -> None:
    """NumPy with one rounding per operation: what every device has to give."""
    cameras, dtype = Cameras.orbit([10.0, 200.0], [33.0, -7.0], 2.3, 47.0), np.float32
    poses, focal, centre = (t.numpy() for t in (cameras.poses, cameras.focal, cameras.centre))
    height, width = 63, 97
    x = (np.arange(width, dtype=dtype) + dtype(0.5)) / dtype(width)
    y = (np.arange(height, dtype=dtype) + dtype(0.5)) / dtype(height)
    u, v = (x - centre[:, :1]) / focal[:, :1], (y - centre[:, 1:]) / focal[:, 1:]
    right, up, backward = (poses[:, None, None, :3, i] for i in range(3))
    d = u[:, None, :, None] * right - v[:, :, None, None] * up - backward
    d = d / np.sqrt((d[..., 0] * d[..., 0] + d[..., 1] * d[..., 1]) + d[..., 2] * d[..., 2])[..., None]
    assert d.dtype == dtype
    assert np.array_equal(cameras.rays(height, width)[1].numpy(), d.reshape(-1, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rays_have_the_same_bits_on_a_gpu() -> None:
    cameras = Cameras.orbit([10.0, 200.0, 311.0], [33.0, -7.0, 80.0], 2.3, 47.0)
    for ours, theirs in zip(cameras.to("cuda").rays(63, 97), cameras.rays(63, 97), strict=True):
        assert torch.equal(ours.cpu(), theirs)


def test_copies_to_a_gpu_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cameras, asked = Cameras.orbit([0.0]), []

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        asked.append(kwargs.get("non_blocking"))
        return self

    monkeypatch.setattr(Tensor, "to", to)
    for target in ("cuda", "cuda:1", torch.device("cuda")):
        cameras.to(target)
        cameras.to(device=target)
    assert asked == [True] * 18
    asked.clear()
    cameras.to("cuda", non_blocking=False)
    assert asked == [False] * 3
    asked.clear()
    for target in ("cpu", torch.float64, torch.zeros(())):
        cameras.to(target)
    cameras.to("cuda", torch.float32, False)
    assert asked == [None] * 12


def test_intrinsics_as_numbers_sequences_and_tensors() -> None:
    poses = Cameras.orbit([0.0, 90.0]).poses
    options = {"width": np.int64(4), "height": 2}
    wanted = Cameras.from_poses(poses, focal=torch.tensor([[8.0, 8.0]] * 2), **options)
    for focal in (8, 8.0, [8.0], [8.0, 8.0], (8, 8), np.float32(8), torch.tensor(8.0), torch.full((2, 1), 8.0)):
        found = Cameras.from_poses(poses, focal=focal, centre=(2, 1), **options)
        assert torch.equal(found.focal, wanted.focal) and torch.equal(found.centre, wanted.centre)
    assert wanted.focal.tolist() == [[2.0, 4.0]] * 2 and wanted.centre.tolist() == [[0.5, 0.5]] * 2


def test_ranges_take_every_real_number() -> None:
    for radius in (3, 3.0, np.float32(3), np.float64(3), torch.tensor(3.0), (3, 3), np.array([3.0, 3.0])):
        distance = Cameras.sample(np.int64(4), radius=radius).positions.norm(dim=-1)
        torch.testing.assert_close(distance, torch.full((4,), 3.0))


def posed(poses: Tensor | None = None, **options: Any) -> Cameras:
    """One camera of `from_poses`."""
    return Cameras.from_poses(torch.eye(4)[None] if poses is None else poses, width=4, height=2, **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Cameras.orbit("a"), "Cameras.orbit: azimuth: expected a number or V numbers, got 'a'"),
        (lambda: Cameras.orbit(0.0, None), "Cameras.orbit: elevation: expected a number or V numbers, got None"),
        (lambda: Cameras.orbit(0.0, target=(0, 0)), "target: expected three finite numbers, got (0, 0)"),
        (lambda: Cameras.orbit(0.0, target=(1.0,)), "target: expected three finite numbers, got (1.0,)"),
        (lambda: Cameras.orbit(0.0, target="abc"), "target: expected three finite numbers, got 'abc'"),
        (lambda: Cameras.orbit(0.0, target=(0, 0, math.inf)), "target: expected three finite numbers, got"),
        (lambda: Cameras.sample(1, azimuth=(1, 2, 3)), "azimuth: expected a number or (low, high), finite, got (1, 2"),
        (lambda: Cameras.sample(1, azimuth="ab"), "azimuth: expected a number or (low, high), finite, got 'ab'"),
        (lambda: Cameras.sample(1, elevation=(0, math.inf), on_sphere=True), "elevation: expected a number or (low,"),
        (lambda: Cameras.sample(True), "count: expected a whole number of at least 1, got True"),
        (lambda: posed(focal=torch.ones(3)), "focal: expected numbers of shape [] or [1] or [2] or [1, 1] or [1, 2]"),
        (lambda: posed(focal="ab"), "focal: expected numbers of shape"),
        (lambda: posed(focal=None), "focal: expected numbers of shape"),
        (lambda: posed(focal=0.0), "Cameras: focal: expected positive numbers, got [0.0, 0.0] in camera 0"),
        (lambda: posed(focal=torch.tensor([1.0, -1])), "Cameras: focal: expected positive numbers"),
        (lambda: posed(focal=1.0, centre=3.0), "centre: expected numbers of shape [2] or [1, 2], got []"),
        (lambda: posed(focal=1.0, centre=(1, 2, 3)), "centre: expected numbers of shape [2] or [1, 2], got [3]"),
        (lambda: posed(torch.zeros(1, 4, 4), focal=1.0), "poses: expected rotations, got axes that span no volume in"),
        (lambda: posed(torch.ones(1, 3, 4), focal=1.0), "poses: expected rotations, got axes that span no volume in"),
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
