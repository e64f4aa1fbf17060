"""Speckle of normals and fog about outlines, on pictures of solids whose normals and opacity are known."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.metrics import normal_noise, outline_fog

SIZE = 64


def places() -> tuple[Tensor, Tensor]:
    """x (right) and y (up) of the pixels' centres, in [−1, 1]."""
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return x, y


def sphere(radius: float = 0.7) -> tuple[Tensor, Tensor]:
    """Normals [1, 3, H, W] and opacity [1, 1, H, W], whose outline is one pixel wide."""
    x, y = places()
    inside = 1 - (x.square() + y.square()) / radius**2
    normals = torch.stack([x / radius, y / radius, inside.clamp(min=0).sqrt()])
    opacity = ((radius - (x.square() + y.square()).sqrt()) * SIZE / 2 + 0.5).clamp(0, 1)
    return (normals * opacity)[None], opacity[None, None]


def cube(turn: float = 0.0) -> tuple[Tensor, Tensor]:
    """A cube seen along its diagonal: three faces, whose creases meet in the middle; turned in the picture."""
    x, y = places()
    angle = (torch.atan2(y, x).rad2deg() - turn) % 360
    sector = (angle / 120).floor().long().clamp(max=2)
    middles = [math.radians(60 + 120 * i + turn) for i in range(3)]
    faces = torch.tensor([[math.cos(a) * math.sqrt(2 / 3), math.sin(a) * math.sqrt(2 / 3), 3**-0.5] for a in middles])
    within = (angle % 60 - 30).deg2rad().cos() * (x.square() + y.square()).sqrt() < 0.7
    return faces[sector].permute(2, 0, 1)[None], within.float()[None, None]


def turned(normals: Tensor, degrees: float) -> Tensor:
    """Each turned on its own, by that much in the mean."""
    noise = torch.randn(normals.shape, generator=torch.Generator().manual_seed(0))
    unit = F.normalize(normals, dim=1)
    across = noise - (noise * unit).sum(1, keepdim=True) * unit
    return unit + math.radians(degrees) / math.sqrt(math.pi / 2) * across


@pytest.mark.parametrize("turn", [0.0, 17.0, 40.0])
def test_clean_solids_have_no_speckle(turn: float) -> None:
    assert normal_noise(*sphere()) < 0.2
    normals, opacity = cube(turn)
    assert normal_noise(normals, opacity) < 3
    assert normal_noise(torch.cat([normals, sphere()[0]]), torch.cat([opacity, sphere()[1]])) < 2


@pytest.mark.parametrize("degrees", [1.0, 5.0, 15.0])
def test_speckle_is_the_mean_angle_of_independent_errors(degrees: float) -> None:
    normals, opacity = sphere()
    assert normal_noise(turned(normals, degrees), opacity) == pytest.approx(degrees, rel=0.08)
    assert normal_noise(3 * turned(normals, degrees), opacity[:, 0]) == pytest.approx(degrees, rel=0.08)


def test_salt_and_pepper_counts_by_its_share() -> None:
    normals, opacity = sphere()
    random = torch.randn(normals.shape, generator=torch.Generator().manual_seed(1))
    few, all_of_them = torch.rand(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) < 0.05, random
    assert 2 < normal_noise(torch.where(few, random, normals), opacity) < 10
    assert 55 < normal_noise(all_of_them, opacity) < 75
    assert normal_noise(torch.zeros_like(normals), opacity) == pytest.approx(90 / 0.739, rel=0.01)


def test_only_the_object_counts_for_normals() -> None:
    normals, opacity = sphere()
    around = F.normalize(torch.randn(normals.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    assert normal_noise(torch.where(opacity < 0.99, around, normals), opacity) < 0.2
    assert math.isnan(normal_noise(normals, 0 * opacity))


def test_an_outline_is_not_fog_and_fog_is() -> None:
    _, opacity = sphere()
    assert outline_fog(opacity) == outline_fog(opacity[:, 0]) == 0
    assert outline_fog(0 * opacity) == 0
    object_rays = float((opacity > 0.1).sum())
    feet = opacity.clone()
    feet[..., -8:-2, 10:54] = 0.3  # 6 × 44 rays below the ball
    assert outline_fog(feet) == pytest.approx(264 / (object_rays + 264), rel=0.03)
    assert outline_fog(0.7 * opacity) > 0.8
    assert outline_fog(0.4 * opacity) == 1
    assert outline_fog(opacity.clamp(min=0.05)) == 0, "too faint to count"


@pytest.mark.parametrize("wide", [2, 6])
def test_soft_edges_wider_than_an_outline_are_fog(wide: int) -> None:
    x, y = places()
    distance = (0.6 - (x.square() + y.square()).sqrt()) * SIZE / 2
    found = outline_fog((distance / wide + 0.5).clamp(0, 1)[None])
    assert (found < 0.01) if wide == 2 else (0.1 < found < 0.4)


def test_other_shapes_are_refused() -> None:
    normals, opacity = sphere()
    with pytest.raises(ValueError, match=r"normals: expected \[1, 3, 64, 64\]"):
        normal_noise(normals[:, :2], opacity)
    with pytest.raises(ValueError, match=r"opacity: expected \[V, 1, H, W\]"):
        outline_fog(opacity[0, 0])
