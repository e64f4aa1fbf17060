"""The mesh's silhouettes are the outlines in the pictures, on solids that one density everywhere would bite away."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

trimesh = pytest.importorskip("trimesh", reason="the extra `apps` is not installed")
pytest.importorskip("skimage", reason="the extra `apps` is not installed")

from ldp_fast.apps.text_to_3d.mesh import fitting, outlines  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh import surface as surfaces  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh import texture as textures  # noqa: E402
from ldp_fast.apps.text_to_3d.mesh.mesh import export_mesh  # noqa: E402

from ..nerf.scenes import MAJOR, MINOR, Torus  # noqa: E402
from .test_mesh import Field, Scene, ball  # noqa: E402

RADIUS = 0.6
BALL = 4 / 3 * math.pi * RADIUS**3


@pytest.fixture(autouse=True)
def few_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged here is the shape: few outlines, and hardly any colours."""
    monkeypatch.setattr(outlines, "RINGS", ((0.0, 5), (40.0, 3), (75.0, 1)))
    monkeypatch.setattr(outlines, "RAYS", 48)
    monkeypatch.setattr(fitting, "SEARCHED", 48)
    monkeypatch.setattr(textures, "RINGS", ((10.0, 2),))


def edge(distance: Tensor, softness: float) -> Tensor:
    """1 inside, 0 outside, and soft about the surface of a signed distance."""
    return torch.sigmoid(-distance / softness)


def soft_front(x: Tensor) -> Tensor:
    """A ball that is hard behind and fades towards the front, where rays are opaque by what lies behind alone."""
    density = 2.5 * (40 / 2.5) ** (0.5 - 0.5 * x[:, 2] / RADIUS).clamp(0, 1)
    return density * edge(x.norm(dim=-1) - RADIUS, 0.02)


def thick_and_thin(x: Tensor) -> Tensor:
    """One half of a ball is twenty times as dense as the other."""
    return torch.where(x[:, 0] > 0, 80.0, 4.0) * edge(x.norm(dim=-1) - RADIUS, 0.01)


def shell(strength: float, speckles: float, fog: float, cells: float) -> Callable[[Tensor], Tensor]:
    """A hollow, translucent ball with speckles and fog about it, as jacobian-nerf leaves a cone after minutes."""

    def density(x: Tensor) -> Tensor:
        distance = x.norm(dim=-1) - RADIUS
        noise = ((x * cells).floor() @ torch.tensor([12.9898, 78.233, 37.719])).sin() * 43758.5453
        noise = noise - noise.floor()
        wall = strength * edge(distance, 0.02) * torch.sigmoid((distance + 0.2) / 0.02)
        return wall * (speckles * (2 * noise - 1)).exp() + 2 * fog * noise * edge(distance - 0.2, 0.04)

    return density


SPECKLED, FOGGY = shell(3.0, 1.5, 0.4, 16), shell(3.5, 0.8, 0.35, 12)


@pytest.mark.parametrize(
    ("density", "carved"),
    [(soft_front, False), (thick_and_thin, False), (SPECKLED, False), (FOGGY, True)],
    ids=["soft front", "thick and thin", "speckled", "foggy"],
)
def test_the_whole_ball_is_there(density: Callable[[Tensor], Tensor], carved: bool, tmp_path: pathlib.Path) -> None:
    scene = Scene(Field(density), size=16)
    report = export_mesh(scene, tmp_path, resolution=64, texture=64, faces=3000)
    assert report.agreement > fitting.AGREEING and report.notes == ()
    assert report.watertight and report.euler_number == 2
    # Where rays graze a soft edge they lose half their light further out.
    assert report.volume == pytest.approx(1.05 * BALL, rel=0.15)
    assert report.extents == pytest.approx((2.04 * RADIUS,) * 3, rel=0.07)
    assert f"silhouettes agree to {100 * report.agreement:.0f} %" in str(report)
    assert report.carved == carved == ("carved by them" in str(report))


def test_the_estimate_alone_would_bite_a_piece_away() -> None:
    lattice = surfaces.density_lattice(SPECKLED, 1.0, 64, torch.device("cpu"))
    bitten = surfaces.cut_surface(lattice, 1.0, surfaces.solid_level(lattice, 2 / 63), 0.05)
    volume = float(surfaces.signed_volumes(bitten.vertices, bitten.faces).sum())
    assert volume < 0.7 * BALL and trimesh.Trimesh(bitten.vertices, bitten.faces).euler_number < 0


def test_a_ring_keeps_its_hole_where_outlines_limit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "CARVED_BELOW", 1.1)
    monkeypatch.setattr(fitting, "WORTH_CARVING", -1.0)
    shape = fitting.shape_of(Scene(Torus(), size=16), 64)
    assert shape.room is not None
    surface = shape.surface()
    mesh = trimesh.Trimesh(surface.vertices, surface.faces)
    assert mesh.euler_number == 0 and shape.agreement(surface.vertices, surface.faces) > 0.93
    assert 2 * math.pi**2 * MAJOR * MINOR**2 * 0.95 < mesh.volume < 2 * math.pi**2 * MAJOR * (MINOR + 0.1) ** 2
    inside = torch.from_numpy(np.argwhere(shape.solid()) / 63 * 2 - 1).float()
    assert len(inside) * (2 / 63) ** 3 == pytest.approx(mesh.volume, rel=0.05)
    assert float(Torus().distance(inside).max()) < 0.12


def test_a_given_density_is_measured_too_and_a_wrong_one_is_told(tmp_path: pathlib.Path) -> None:
    scene = Scene(Field(thick_and_thin), size=16)
    report = export_mesh(scene, tmp_path, resolution=48, texture=64, faces=1000, threshold=40.0)
    assert report.threshold == 40 and not report.automatic_threshold and not report.carved
    assert report.agreement < 0.7
    assert "under 95 % the mesh is not what the pictures show: try --threshold" in str(report)
    assert "density 40; silhouettes agree to" in str(report)


def test_a_translucent_mess_is_told(tmp_path: pathlib.Path) -> None:
    def clouds(x: Tensor) -> Tensor:
        return 0.7 + 0.7 * torch.sin(9 * x).prod(dim=1) * (x.norm(dim=-1) < 0.9)

    report = export_mesh(Scene(Field(clouds), size=16), tmp_path, resolution=32, texture=64, faces=0)
    assert report.agreement < fitting.AGREEING
    assert "for the object is translucent" in str(report)


def test_agreement_is_intersection_over_union() -> None:
    found = outlines.seen_outlines(Scene(Field(ball(RADIUS, 200.0)), size=16))
    assert found.solidity == pytest.approx(1, abs=1e-3)

    def agreement(radius: float, shift: float = 0.0) -> float:
        mesh = trimesh.creation.icosphere(4, radius=radius)
        return found.agreement(torch.from_numpy(mesh.vertices + np.array([0, shift, 0])), torch.from_numpy(mesh.faces))

    assert agreement(RADIUS) > 0.99
    # A ball's silhouette grows a little faster than its radius, for its nearest part hides the rest.
    for radius in (0.5, 0.7):
        ratio = (min(radius, RADIUS) / max(radius, RADIUS)) ** 2
        assert agreement(radius) == pytest.approx(ratio, abs=0.03)
    assert agreement(RADIUS, 0.3) < 0.8
    empty = outlines.Outlines(found.cameras, 0 * found.opacity, 1, 0.0)
    assert empty.agreement(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])) == 1


def test_pixels_of_several_rays_are_compared_ray_by_ray() -> None:
    scene = Scene(Field(ball(RADIUS, 200.0)), size=16)
    render = scene.render

    def pooled(cameras: object, size: int, **options: object) -> object:
        out = render(cameras, 2 * size, **options)  # type: ignore[arg-type]
        return dataclasses.replace(out, opacity=torch.nn.functional.avg_pool2d(out.opacity, 2))

    scene.render, scene.refined, scene.supersample = pooled, False, 2  # type: ignore[method-assign, assignment]
    found = outlines.seen_outlines(scene)
    assert found.opacity.shape[-1] == 24
    mesh = trimesh.creation.icosphere(4, radius=RADIUS)
    assert found.agreement(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)) > 0.99


def test_even_fog_does_not_count() -> None:
    clear = outlines.seen_outlines(Scene(Field(ball(0.4, 200.0)), size=16))
    foggy = outlines.seen_outlines(Scene(Field(lambda x: ball(0.4, 200.0)(x) + 0.8), size=16), fog=0.8)
    assert float((foggy.opacity - clear.opacity).abs().mean()) < 5e-3
    assert bool((foggy.masks == clear.masks).float().mean() > 0.999)


def test_room_is_within_the_outlines() -> None:
    found = outlines.seen_outlines(Scene(Field(ball(RADIUS, 200.0)), size=16))
    radii = torch.tensor([0.0, 0.3, 0.55, 0.85, 1.0])
    for direction in ([1.0, 0, 0], [0, 1.0, 0], [0.6, 0.0, 0.8]):
        room = found.room(radii[:, None] * torch.tensor(direction))
        assert (room > 0.5).tolist() == [True, True, True, False, False], direction
    # A view that does not show a place says nothing: here none of them does.
    assert float(found.room(torch.tensor([[0.0, 50.0, 0.0]]))) >= 0.99


@pytest.mark.parametrize(("top", "expected"), [(1.0, 1.0), (0.25, 0.25), (11.0, 8 * 2**0.5), (0.7, 2**-0.5)])
def test_climbing_finds_the_top(top: float, expected: float) -> None:
    asked = []

    def agreement(factor: float) -> float:
        asked.append(factor)
        return 1 - 0.2 * abs(math.log2(factor / top))

    factor, value = fitting.climb(agreement)
    assert factor == pytest.approx(expected) and value == agreement(factor)
    assert len(set(asked)) == len(asked) - 1 <= 12


def test_climbing_stays_where_all_is_even() -> None:
    assert fitting.climb(lambda factor: 0.9 + 0.003 * (factor == 2)) == (1.0, 0.9)
    assert fitting.climb(lambda factor: -1.0) == (1.0, -1.0)
