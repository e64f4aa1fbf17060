"""Measures against the truth, on solids, colours and patterns that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldp_fast.metrics import truth
from ldp_fast.zoo import solids, world


def lattice(shape: str, pose: truth.Pose, resolution: int = 48) -> np.ndarray:
    points = truth.lattice_points(resolution, 1.0)
    return (world.signed_distance(shape, pose.to_solid(points)) < 0).reshape((resolution,) * 3)


@pytest.mark.parametrize("shape", world.SHAPES)
@pytest.mark.parametrize("pose", [truth.Pose(), truth.Pose(0.5, 0.88, (0.1, -0.07, 0.04))], ids=["as it is", "moved"])
def test_a_solid_is_found_where_it_stands(shape: str, pose: truth.Pose) -> None:
    solid = lattice(shape, pose)
    period = solids.symmetry(shape)
    found = truth.align(solid, 1.0, lambda points: world.signed_distance(shape, points), period)
    assert found.scale == pytest.approx(pose.scale, abs=0.025)
    assert found.shift == pytest.approx(pose.shift, abs=0.02)
    if period:
        assert abs((found.yaw - pose.yaw + period / 2) % period - period / 2) < 0.05
    assert truth.intersection_over_union(lattice(shape, found), solid) > 0.95


def test_a_pose_goes_both_ways_and_turns_the_front_to_the_right() -> None:
    pose = truth.Pose(math.pi / 2, 2.0, (0.0, 0.0, 1.0))
    np.testing.assert_allclose(pose.to_world(np.array([[0.0, 0.0, 1.0]])), [[2.0, 0.0, 1.0]], atol=1e-12)
    points = np.random.default_rng(0).normal(size=(9, 3))
    np.testing.assert_allclose(pose.to_solid(pose.to_world(points)), points, atol=1e-12)


def test_a_speck_is_not_a_small_solid_and_nothing_cannot_be_aligned() -> None:
    speck = lattice("sphere", truth.Pose(scale=0.3))
    found = truth.align(speck, 1.0, lambda points: world.signed_distance("sphere", points))
    assert found.scale == pytest.approx(truth.SCALES[0], abs=0.01)
    with pytest.raises(ValueError, match="align: solid: expected a cube with something in it"):
        truth.align(np.zeros((4, 4, 4)), 1.0, lambda points: points[:, 0])
    with pytest.raises(ValueError, match="align: solid: expected a cube"):
        truth.align(np.ones((4, 4, 5)), 1.0, lambda points: points[:, 0])


def test_volumes() -> None:
    solid = np.zeros((9, 9, 9), dtype=bool)
    solid[1:4, 1:4, 1:4] = True
    assert truth.largest_body(solid) == 1.0
    solid[6, 6, 6:9] = True
    assert truth.largest_body(solid) == pytest.approx(27 / 30)
    assert truth.largest_body(solid & False) == 0.0
    assert truth.intersection_over_union(solid, solid) == 1.0
    assert (
        truth.intersection_over_union(solid, ~solid)
        == 0.0
        == truth.intersection_over_union(solid & False, solid & False)
    )
    assert truth.intersection_over_union(np.array([0.5, 1.0]), np.array([1.0, 1.0])) == 0.75


def test_chamfer_distance_of_a_larger_sphere() -> None:
    def distance(points: np.ndarray) -> np.ndarray:
        return np.linalg.norm(points, axis=1) - 0.85

    asked = solids.surface_points("sphere", 4000)
    np.testing.assert_allclose(np.linalg.norm(asked, axis=1), 0.85, atol=1e-4)
    assert truth.chamfer(asked * 1.1, asked, distance) == pytest.approx(0.085, abs=2e-3)
    assert truth.chamfer(solids.surface_points("sphere", 4000, seed=1), asked, distance) < 0.013


def test_lab_of_known_colours() -> None:
    # Of Bruce Lindbloom's tables for sRGB and D65.
    colours = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    found = truth.srgb_to_lab(colours)
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert truth.colour_difference(found[0], found[1]) == pytest.approx(100)
    for name, colour in world.COLOURS.items():
        assert truth.nearest_name(truth.srgb_to_lab(np.array(colour)), world.COLOURS) == name


def test_mixtures_are_not_foreign_colours() -> None:
    blue, yellow = np.array([0.1, 0.2, 0.9]), np.array([0.9, 0.9, 0.1])
    share, away = truth.mixtures(np.array([blue, yellow, 0.5 * blue + 0.5 * yellow, [0.9, 0.1, 0.1]]), blue, yellow)
    assert share[:3].tolist() == [0.0, 1.0, 0.5]
    assert away[:3].max() < 1e-9 and away[3] > 60


@pytest.mark.parametrize(
    ("shape", "pattern", "kind", "around"),
    [
        ("sphere", "striped", "rings", 0),
        ("cone", "striped", "rings", 0),
        ("torus", "striped", "sectors", 8),
        ("sphere", "checkered", "checks", 4),
        ("torus", "checkered", "checks", 6),
    ],
)
def test_waves_of_the_worlds_patterns(shape: str, pattern: str, kind: str, around: int) -> None:
    scene = world.Scene(shape, "red", pattern, "blue")
    points = solids.surface_points(shape, 6000)
    second = world.is_second_colour(scene, points).astype(float)
    step = 1.0 if shape == "torus" else 0.0
    wave = truth.strongest_wave(second, *solids.coordinates(shape, points), step)
    assert (wave.kind(), wave.around) == (kind, around)
    if kind == "rings":
        assert wave.along == pytest.approx(2.4, abs=0.1)
    other = truth.Wave(wave.along * 1.3 + 0.5, around, 1.0)
    assert wave.alike(wave) and not wave.alike(other)


def test_a_turned_pattern_is_found() -> None:
    scene = world.Scene("cylinder", "red", "checkered", "blue")
    points = solids.surface_points("cylinder", 4000)
    turn = math.radians(20)
    second = world.is_second_colour(scene, truth.Pose(yaw=turn).to_solid(points)).astype(float)
    yaw, agreement = solids.best_yaw(scene, points, second)
    # The pattern is the same after a quarter of a turn.
    assert yaw % (math.pi / 2) == pytest.approx(turn) and agreement == 1.0


def test_wilson_intervals() -> None:
    # Values of Newcombe's paper (Statistics in Medicine 17, 1998), table I.
    assert truth.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert truth.wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert truth.wilson_interval(0, 0) == (0.0, 1.0)
