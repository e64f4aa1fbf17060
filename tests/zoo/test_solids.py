"""The world's solids in any pose: they look as the world renders them."""

from __future__ import annotations

import math

import numpy as np

from ldp_fast.metrics.truth import Pose
from ldp_fast.nerf import Cameras
from ldp_fast.zoo import solids, world

SCENE = world.Scene("cube", "red", "striped", "blue")


def seen(pose: Pose | None, azimuth: float = 0.0) -> np.ndarray:
    origins, directions = (x.numpy() for x in Cameras.orbit(azimuth, 20.0).rays(48, 48))
    return solids.look(SCENE, origins[0], directions, pose).picture(SCENE, 0.5).reshape(48, 48, 3)


def test_without_a_pose_it_is_the_worlds_picture() -> None:
    view = world.View(0.0, math.radians(20.0), background=0.5)
    expected = world.render(SCENE, view, size=48, supersample=1) / 255
    assert np.abs(seen(None) - expected).max(axis=2).mean() < 0.003


def test_a_turned_solid_is_one_seen_from_another_side_but_for_the_light() -> None:
    turned, moved = seen(Pose(yaw=math.radians(30.0))), seen(None, azimuth=-30.0)
    covered = [np.abs(x - 0.5).max(axis=2) > 0.02 for x in (turned, moved)]
    assert (covered[0] == covered[1]).mean() > 0.995
    hue = [x.argmax(axis=2) for x in (turned, moved)]
    assert (hue[0] == hue[1])[covered[0]].mean() > 0.98
    # The light stays where it is.
    assert np.abs(turned - moved)[covered[0]].max() > 0.05


def test_what_is_covered_is_what_is_seen() -> None:
    pose = Pose(0.3, 0.8, (0.1, 0.2, -0.1))
    origins, directions = (x.numpy() for x in Cameras.orbit(70.0, 40.0).rays(32, 32))
    label = solids.look(SCENE, origins[0], directions, pose).label
    assert (solids.covered("cube", origins[0], directions, pose) == (label > 0)).all()
    assert 0.05 < (label > 0).mean() < 0.3 and set(label.tolist()) == {0, 1, 2}
    larger = solids.covered("cube", origins[0], directions, pose.larger(1.2))
    assert (larger & (label > 0)).sum() == (label > 0).sum() < larger.sum()
