"""The embedded generator: its z say what its pictures show."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import numpy as np
import pytest
import torch

from ldp_fast.generators import Settings, StyleGAN2, usual_channels
from ldp_fast.zoo import generator, world


def test_attributes_are_uniform_and_do_not_depend_on_a_z_s_length() -> None:
    z = np.random.default_rng(0).standard_normal((20000, 8))
    u = generator.uniform(z)
    for quantile in (0.1, 0.5, 0.9):
        np.testing.assert_allclose((u < quantile).mean(0), quantile, atol=0.012)
    np.testing.assert_allclose(generator.uniform(z * 3.0), u, atol=1e-12)
    found = generator.attributes(z)
    assert np.degrees([found.azimuth.min(), found.azimuth.max()]) == pytest.approx([-90, 90], abs=0.1)
    assert np.degrees(found.elevation).min() == pytest.approx(-5, abs=0.1)
    assert np.degrees(found.elevation).max() == pytest.approx(55, abs=0.1)
    assert {name: found.names().count(name) for name in world.COLOURS} == pytest.approx(
        dict.fromkeys(world.COLOURS, 2500), rel=0.1
    )


def test_colours_go_over_into_their_neighbours_without_a_jump() -> None:
    colours = generator.colours_at(np.linspace(0, 8, 4001))
    assert np.abs(np.diff(colours, axis=0)).max() < 0.006
    for index, name in enumerate(generator.ORDER):
        np.testing.assert_allclose(generator.colours_at(np.array([index + 0.5]))[0], world.COLOURS[name])
    named = (np.abs(colours[:, None] - np.array(list(world.COLOURS.values()))).max(2) < 1e-9).any(1)
    assert named.mean() == pytest.approx(generator.PLATEAU + (1 - generator.PLATEAU) / 8, abs=0.01)


def test_training_pictures_are_renders_of_what_the_z_say(tmp_path: pathlib.Path) -> None:
    poses = generator.Poses(tmp_path / "poses.npz", seed=3, count=4)
    first, second, pictures = poses.batch(np.random.default_rng(5), 6)
    assert torch.equal(first[:3], second[:3]) and not torch.equal(first[3:], second[3:])
    pose, looks = generator.attributes(first), generator.attributes(second)
    for index in range(6):
        # A cube of any colour, put together from the world's own render of a white one.
        view = dataclasses.replace(pose.views()[index], background=0.0)
        image, coverage = world.render(world.Scene("cube", "white"), view, generator.SIZE, mask=True)
        wanted = image / 255 / world.COLOURS["white"][0] * looks.colour[index]
        wanted = wanted + (1 - coverage[..., None]) * looks.background[index]
        np.testing.assert_allclose((pictures[index].permute(1, 2, 0) + 1) / 2, wanted.clip(0, 1), atol=0.004)
    again = generator.Poses(tmp_path / "poses.npz", seed=9)
    assert np.array_equal(again.z, poses.z), "what is there is not made again"


def test_mixed_styles_have_the_pose_of_the_first_and_the_fine_layers_of_the_second() -> None:
    small = StyleGAN2(Settings(resolution=64, z_dim=8, w_dim=8, channels=usual_channels(64, 256, 8)))
    first, second = torch.randn(2, 2, 8)
    w = generator.mixed(small, first, second)
    assert torch.equal(w[:, : generator.FINE], small.mapping(first)[:, : generator.FINE])
    assert torch.equal(w[:, generator.FINE :], small.mapping(second)[:, generator.FINE :])


def test_a_view_is_the_camera_that_an_attribute_says() -> None:
    z = np.zeros((1, 8))
    z[0, 7] = 1.0
    middle = generator.attributes(z)
    (view,) = middle.views()
    assert view.azimuth == pytest.approx(0, abs=1e-6) and math.degrees(view.elevation) == pytest.approx(25)
    assert view.radius == pytest.approx(world.CAMERA_RADIUS * 1.01) and view.background == pytest.approx(0.425)
    assert middle.names() == ["green"]
