"""The renderer: closed forms, brute force, seeds, backgrounds, overflow, gradients, and what it refuses."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.nerf import (
    Cameras,
    ConstantBackground,
    DirectionalBackground,
    HashGrid,
    LatentField,
    LatentRenderer,
    OccupancyGrid,
    SampleOverflow,
    VoxelField,
    composite,
    march_rays,
)
from tests.ops.common import NoSync

from .scenes import Ball, Torus


def small_field(seed: int = 0) -> LatentField:
    torch.manual_seed(seed)
    grid = HashGrid(n_levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32)
    nn.init.normal_(grid.table, std=0.3)
    return LatentField(grid, hidden=16)


def test_a_ball_has_its_closed_form() -> None:
    ball = Ball(radius=0.5, density=3.0)
    cameras = Cameras.orbit([0.0, 70.0], 20.0, radius=3.0, fov=30.0)
    out = LatentRenderer(ball, steps_per_ray=2000, early_stop=0.0).eval()(cameras, 9, 9)
    origins, directions = cameras.rays(9, 9)
    closest = -(origins * directions).sum(-1)
    miss = (origins.square().sum(-1) - closest.square()).clamp(min=0)
    half = (0.25 - miss).clamp(min=0).sqrt()
    opacity = 1 - torch.exp(-3.0 * 2 * half)
    # ∫ t·σ·exp(−σ(t − t₀)) dt over the chord [t₀, t₁]
    enter = closest - half
    depth = enter * opacity + (1 - torch.exp(-6.0 * half) * (1 + 6.0 * half)) / 3.0
    assert (out.opacity.flatten() - opacity).abs().max() < 5e-3
    assert (out.depth.flatten() - depth).abs().max() < 2e-2
    expected = opacity.view(2, 1, 9, 9) * torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    assert (out.latents - expected).abs().max() < 1e-2


def test_shapes_and_statistics() -> None:
    out = LatentRenderer(small_field(), steps_per_ray=16)(Cameras.orbit([0.0, 90.0, 180.0]), 5, 7, normals=True)
    assert out.latents.shape == (3, 4, 5, 7) and out.normals is not None and out.normals.shape == (3, 3, 5, 7)
    for picture in (out.opacity, out.depth, out.distortion, out.emptiness):
        assert picture.shape == (3, 1, 5, 7) and picture.isfinite().all()
    written, required = out.statistics.counts.tolist()
    assert written == required == int(out.samples.ray_offsets[-1]) and not out.statistics.overflowed
    assert out.weights.shape == out.samples.distances.shape == (written,)
    assert out.statistics.rays == 105


def test_pixels_stand_where_the_camera_sees_them() -> None:
    class Half(Ball):
        def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
            density, values = super().forward(positions)
            return density * (positions[:, 0] > 0) * (positions[:, 1] > 0), values

    out = LatentRenderer(Half(density=50.0), steps_per_ray=400).eval()(Cameras.orbit(0.0, 0.0, 3.0, 30.0), 16, 16)
    quadrants = out.opacity[0, 0].view(2, 8, 2, 8).mean((1, 3))
    assert quadrants[0, 1] > 0.3 and quadrants[0, 0] == quadrants[1, 0] == quadrants[1, 1] == 0


def test_skipping_empty_space_changes_nothing() -> None:
    torus = Torus(softness=0.005)
    occupancy = OccupancyGrid(resolution=64, threshold=1e-6)
    for _ in range(3):
        occupancy.update(lambda x: torus(x)[0])
    cameras = Cameras.orbit([10.0, 200.0], 35.0)
    everything = LatentRenderer(torus, steps_per_ray=128)(cameras, 24, 24, seed=5)
    skipping = LatentRenderer(torus, occupancy, steps_per_ray=128)(cameras, 24, 24, seed=5)
    assert int(skipping.statistics.counts[0]) < 0.4 * int(everything.statistics.counts[0])
    assert (skipping.latents - everything.latents).abs().max() < 1e-2
    assert float(occupancy.occupied_share()) < 0.3


def test_seeds_and_modes() -> None:
    renderer, cameras = LatentRenderer(small_field(), steps_per_ray=8), Cameras.orbit(30.0)
    first = renderer(cameras, 8, 8, seed=1).latents
    assert torch.equal(first, renderer(cameras, 8, 8, seed=torch.tensor([1])).latents)
    assert not torch.equal(first, renderer(cameras, 8, 8, seed=2).latents)
    renderer.eval()
    assert torch.equal(renderer(cameras, 8, 8, seed=1).latents, renderer(cameras, 8, 8, seed=2).latents)


def test_a_batch_is_its_views() -> None:
    renderer, cameras = LatentRenderer(small_field(), steps_per_ray=32).eval(), Cameras.orbit([0.0, 100.0, 200.0])
    together = renderer(cameras, 6, 6).latents
    alone = torch.cat([renderer(cameras[i], 6, 6).latents for i in range(3)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(
    "background",
    [torch.tensor([1.0, 2.0, 3.0, 4.0]), ConstantBackground([1.0, 2.0, 3.0, 4.0])],
    ids=["tensor", "module"],
)
def test_background_shows_where_there_is_nothing(background: Tensor | nn.Module) -> None:
    field = VoxelField(8, density_shift=-40.0)
    out = LatentRenderer(field, background=background, steps_per_ray=16)(Cameras.orbit(0.0, fov=90.0), 4, 4)
    expected = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 4, 1, 1).expand(1, 4, 4, 4)
    torch.testing.assert_close(out.latents, expected)


def test_background_of_the_call_wins_and_is_blended() -> None:
    renderer = LatentRenderer(small_field(), background=torch.zeros(4), steps_per_ray=32).eval()
    cameras = Cameras.orbit([0.0, 50.0])
    picture = torch.randn(2, 4, 5, 6)
    bare, out = renderer(cameras, 5, 6), renderer(cameras, 5, 6, background=picture)
    torch.testing.assert_close(out.latents, bare.latents + (1 - bare.opacity) * picture)


def test_gradients_reach_every_parameter_and_are_right() -> None:
    field = small_field().double()
    renderer = LatentRenderer(field, background=DirectionalBackground(4).double(), steps_per_ray=12, jitter=True)
    cameras = Cameras.orbit([0.0, 120.0], 30.0)

    def loss() -> Tensor:
        out = renderer(cameras, 4, 4, seed=3)
        weights = torch.linspace(-1, 1, out.latents.numel(), dtype=torch.float64).view_as(out.latents)
        return (out.latents * weights).sum() + out.opacity.mean() + out.depth.square().mean() + out.distortion.sum()

    parameters = list(renderer.parameters())
    gradients = torch.autograd.grad(loss(), parameters)
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in parameters]
    epsilon, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p += sign * epsilon * d
            values.append(float(loss()))
            for p, d in zip(parameters, directions, strict=True):
                p -= sign * epsilon * d
    expected = (values[0] - values[1]) / (2 * epsilon)
    assert float(sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))) == pytest.approx(
        expected, rel=1e-5
    )
    assert all(g.any() for g in gradients)


def test_normals_point_outwards() -> None:
    class Soft(VoxelField):
        pass

    field = Soft(65, density_shift=0.0)
    with torch.no_grad():
        axis = torch.linspace(-1, 1, 65)
        z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
        field.table[: 65**3, 0] = (60 * (0.25 - (x**2 + y**2 + z**2))).flatten()
    out = LatentRenderer(field, steps_per_ray=200).eval()(Cameras.orbit(0.0, 0.0, 3.0, 25.0), 11, 11, normals=True)
    assert out.normals is not None
    middle = out.normals[0, :, 5, 5]
    assert middle[2] > 0.98 and middle[:2].abs().max() < 0.1, "towards the camera at +z"
    assert out.normals[0, 0, 5, 8] > 0.2 and out.normals[0, 1, 2, 5] > 0.2


def test_overflow_is_never_silent() -> None:
    cameras = Cameras.orbit(0.0)
    with pytest.raises(SampleOverflow) as caught:
        LatentRenderer(small_field(), max_samples=100, steps_per_ray=64)(cameras, 8, 8)
    required = int(LatentRenderer(small_field(), steps_per_ray=64)(cameras, 8, 8).statistics.counts[1])
    assert f"max_samples: expected at least {required} for these 64 rays, got 100" in str(caught.value)
    exact = LatentRenderer(small_field(), max_samples=required, steps_per_ray=64)(cameras, 8, 8)
    assert not exact.statistics.overflowed
    told = LatentRenderer(small_field(), max_samples=100, steps_per_ray=64, overflow="report")(cameras, 8, 8)
    assert told.statistics.overflowed and told.statistics.counts.tolist() == [100, required]
    with pytest.raises(SampleOverflow, match="max_samples"):
        told.statistics.check()


def test_the_default_capacity_cannot_overflow() -> None:
    diagonal = Cameras.orbit(45.0, math.degrees(math.atan(1 / math.sqrt(2))), radius=4.0, fov=0.01)
    for steps in (1, 7, 64):
        out = LatentRenderer(small_field(), steps_per_ray=steps, jitter=True)(diagonal, 1, 1, seed=steps)
        assert not out.statistics.overflowed


def test_rays_that_miss_see_the_background() -> None:
    away = Cameras.orbit(0.0, radius=3.0, target=(0.0, 50.0, 0.0))
    out = LatentRenderer(small_field(), background=torch.full((4,), 7.0))(away, 3, 3)
    assert int(out.statistics.counts[0]) == 0 and (out.latents == 7).all() and not out.opacity.any()
    out.latents.sum()  # nothing to differentiate, nothing to break


def test_nothing_waits_for_the_device() -> None:
    renderer, cameras = LatentRenderer(small_field(), steps_per_ray=8), Cameras.orbit([0.0, 90.0])
    # On a CPU buffers are cut to the samples there are, which reads a count; a GPU's way is what is compiled.
    origins, directions = cameras.rays(4, 4)
    with NoSync():
        samples = march_rays(origins, directions, capacity=2000, step=0.1, jitter=True, seed=torch.tensor([1]))
        density, values = renderer.field(samples.positions, samples.counts[:1])
        out = composite(density, values, samples.distances, samples.steps, samples.ray_offsets)
        (out[0].sum() + out[1].sum()).backward()
        occupancy = OccupancyGrid(resolution=8)
        occupancy.update(renderer.field)
        occupancy.update(renderer.field, full=False)


def test_modules_travel() -> None:
    occupancy = OccupancyGrid(resolution=16)
    renderer = LatentRenderer(small_field(), occupancy, DirectionalBackground(4), steps_per_ray=16).eval()
    occupancy.update(renderer.field)
    other = LatentRenderer(
        small_field(1), OccupancyGrid(resolution=16), DirectionalBackground(4), steps_per_ray=16
    ).eval()
    other.load_state_dict(renderer.state_dict())
    cameras = Cameras.orbit(15.0)
    assert torch.equal(other(cameras, 6, 6).latents, renderer(cameras, 6, 6).latents)
    assert torch.equal(copy.deepcopy(renderer)(cameras, 6, 6).latents, renderer(cameras, 6, 6).latents)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: LatentRenderer(nn.Linear(3, 5)), ValueError, "box: expected six numbers for a field without"),
        (
            lambda: LatentRenderer(Ball(), box=(1, 0, 0, -1, 1, 1)),
            ValueError,
            "a minimum below the maximum, got 1 to -1 along x",
        ),
        (
            lambda: LatentRenderer(Ball(), max_samples=0),
            ValueError,
            "max_samples: expected a whole number of at least 1, got 0",
        ),
        (lambda: LatentRenderer(Ball(), steps_per_ray=0), ValueError, "steps_per_ray: expected a whole number"),
        (
            lambda: LatentRenderer(Ball(), near=2.0, far=1.0),
            ValueError,
            "far: expected a number above near, 2, got 1.0",
        ),
        (lambda: LatentRenderer(Ball(), OccupancyGrid(2.0, 8)), ValueError, "occupancy: expected a grid of the box"),
        (lambda: LatentRenderer(Ball(), overflow="drop"), ValueError, "overflow: expected one of 'error', 'report'"),
        (lambda: LatentRenderer(Ball())(torch.eye(4)), TypeError, "cameras: expected Cameras, got Tensor"),
        (lambda: LatentRenderer(Ball())(Cameras.orbit(0.0), 0), ValueError, "height: expected a whole number"),
        (
            lambda: LatentRenderer(Ball())(Cameras.orbit(0.0), 4, 4, seed=1.5),
            TypeError,
            "seed: expected a whole number",
        ),
        (
            lambda: LatentRenderer(Ball())(Cameras.orbit(0.0), 4, 4, background=torch.zeros(1, 3, 4, 4)),
            ValueError,
            "background: expected shape [C] or [1, 2, 4, 4], got [1, 3, 4, 4]",
        ),
        (
            lambda: LatentRenderer(small_field())(Cameras.orbit(0.0).to("meta"), 4, 4),
            ValueError,
            "cameras: expected cameras on the field's device, cpu, got on meta",
        ),
        (lambda: OccupancyGrid(resolution=100), ValueError, "resolution: expected a power of two, got 100"),
        (lambda: OccupancyGrid(decay=0.0), ValueError, "decay: expected a finite number above 0"),
        (
            lambda: OccupancyGrid(resolution=8).update(lambda x: x),
            ValueError,
            "field: expected densities of shape [512], got [512, 3]",
        ),
        (
            lambda: march_rays(torch.zeros(2, 3), torch.zeros(3, 3), capacity=1, step=0.1),
            ValueError,
            "directions: expected shape [2, 3], got [3, 3]",
        ),
        (
            lambda: march_rays(torch.zeros(2, 3), torch.zeros(2, 3), capacity=0, step=0.1),
            ValueError,
            "capacity: expected a whole number of at least 1, got 0",
        ),
        (
            lambda: march_rays(torch.zeros(2, 3).double(), torch.zeros(2, 3).double(), capacity=1, step=0.1),
            TypeError,
            "origins: expected float32 rays",
        ),
        (
            lambda: composite(*[torch.zeros(3)] * 4, torch.tensor([0, 3])),
            ValueError,
            "values: expected shape [3, C], got [3]",
        ),
        (
            lambda: composite(
                torch.zeros(3), torch.zeros(3, 2), torch.zeros(3), torch.zeros(3), torch.tensor([0.0, 3.0])
            ),
            TypeError,
            "ray_offsets: expected an int64 tensor, got torch.float32",
        ),
    ],
)
def test_refusals(make: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error) as caught:
        make()  # type: ignore[operator]
    assert words in str(caught.value), caught.value


def test_a_uniform_field_does_not_vanish() -> None:
    for field in (VoxelField(16), VoxelField(16, density_shift=0.0)):
        occupancy = OccupancyGrid(resolution=16)
        cameras = Cameras.orbit([0.0, 90.0])
        before = LatentRenderer(field, steps_per_ray=64)(cameras, 6, 6, seed=1)
        occupancy.update(field)
        out = LatentRenderer(field, occupancy, steps_per_ray=64)(cameras, 6, 6, seed=1)
        assert float(occupancy.occupied_share()) == 1 and torch.equal(out.latents, before.latents)
        out.latents.square().mean().backward()
        assert field.table.grad is not None and field.table.grad.any()


def test_what_no_update_has_seen_counts_as_occupied() -> None:
    occupancy = OccupancyGrid(resolution=16)
    occupancy.update(lambda x: torch.full((len(x),), 5.0), full=False)
    assert float(occupancy.occupied_share()) == 1
    occupancy.update(lambda x: 50.0 * (x[:, 0] > 0), full=True)
    for _ in range(200):
        occupancy.update(lambda x: 50.0 * (x[:, 0] > 0), full=False)
    assert float(occupancy.occupied_share()) == pytest.approx(0.5, abs=0.02)


def test_a_double_field_and_a_float_grid() -> None:
    field, occupancy = small_field().double(), OccupancyGrid(resolution=8)
    occupancy.update(field)
    assert LatentRenderer(field, occupancy, steps_per_ray=8)(Cameras.orbit(0.0), 3, 3).latents.dtype == torch.float64


def test_a_parameter_as_background_is_trained() -> None:
    renderer = LatentRenderer(small_field(), background=nn.Parameter(torch.zeros(4)), steps_per_ray=8)
    renderer(Cameras.orbit(0.0, fov=80.0), 4, 4).latents.sum().backward()
    assert "background" in dict(renderer.named_parameters()) and renderer.background.grad.any()
    assert "background" in LatentRenderer(small_field(), background=torch.zeros(4)).state_dict()


def test_no_cameras_give_no_pictures() -> None:
    out = LatentRenderer(small_field(), background=DirectionalBackground(4))(Cameras.orbit([0.0, 1.0])[:0], 4, 5)
    assert out.latents.shape == (0, 4, 4, 5) and out.opacity.shape == (0, 1, 4, 5)


def test_inference_mode_renders_normals() -> None:
    renderer = LatentRenderer(small_field(), steps_per_ray=16).eval()
    with torch.inference_mode():
        out = renderer(Cameras.orbit(0.0), 4, 4, normals=True)
    assert out.normals is not None and out.normals.any()


def test_cascades_skip_what_is_empty_and_change_nothing_else() -> None:
    class Far(Torus):
        bound = 4.0

    field, cameras = Far(softness=0.005), Cameras.orbit([10.0, 200.0], 35.0, radius=6.0, fov=25.0)
    occupancy = OccupancyGrid(4.0, 32, cascades=3, threshold=1e-6)
    for _ in range(4):
        occupancy.update(lambda x: field(x)[0])
    everything = LatentRenderer(field, steps_per_ray=512)(cameras, 16, 16, seed=5)
    skipping = LatentRenderer(field, occupancy, steps_per_ray=512)(cameras, 16, 16, seed=5)
    assert int(skipping.statistics.counts[0]) < 0.4 * int(everything.statistics.counts[0])
    assert (skipping.latents - everything.latents).abs().max() < 1e-2


def test_a_compiled_renderer_reports_overflow_too() -> None:
    renderer = torch.compile(LatentRenderer(small_field(), max_samples=100, steps_per_ray=64), backend="aot_eager")
    with pytest.raises(SampleOverflow, match="max_samples"):
        renderer(Cameras.orbit(0.0), 8, 8)


def test_a_late_report_of_overflow_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports arrive later than the next call where the host runs ahead: they queue, and each is looked at."""

    class Event:
        def __init__(self) -> None:
            self.asked = 0

        def query(self) -> bool:
            self.asked += 1
            return self.asked > 2

    import contextlib

    renderer = LatentRenderer(small_field(), max_samples=10**6, steps_per_ray=8)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for required in (7, 999, 8):
        renderer._awaited.append((torch.tensor([5, required]), Event(), 100, 16))  # type: ignore[arg-type]
    with pytest.raises(SampleOverflow, match="expected at least 999 for these 16 rays, got 100"):
        for _ in range(9):
            renderer(Cameras.orbit(0.0), 4, 4)
