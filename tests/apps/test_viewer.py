"""The viewer without a browser: cameras, pictures, that training is not disturbed, checkpoints, and errors."""

from __future__ import annotations

import dataclasses
import math
import threading
import urllib.request

import numpy as np
import pytest
import torch

from ldp_fast import UsageError
from ldp_fast.apps.text_to_3d.viewer.pictures import CHANNELS, draw, rotation_of
from ldp_fast.nerf import Cameras, FusedAdam, HashGrid, LatentField, LatentRenderer, OccupancyGrid

from .viewer_scene import FRONT, TorusScene, Watcher, view_of

CPU = torch.device("cpu")


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 0), (90, 0), (200, 35), (-50, -20), (10, 89)])
def test_a_visitors_camera_is_ours(azimuth: float, elevation: float) -> None:
    orbit = Cameras.orbit(azimuth, elevation, 3.1, 40.0)
    got = view_of(orbit).cameras()
    torch.testing.assert_close(got.poses, orbit.poses, atol=2e-6, rtol=0)
    torch.testing.assert_close(got.focal, orbit.focal)
    torch.testing.assert_close(got.rays(5, 5), orbit.rays(5, 5), atol=5e-6, rtol=0)


def test_a_quaternions_length_does_not_matter() -> None:
    turn = rotation_of((0.9, 0.1, -0.3, 0.2))
    torch.testing.assert_close(turn, rotation_of((-4.5, -0.5, 1.5, -1.0)))
    torch.testing.assert_close(turn @ turn.T, torch.eye(3, dtype=torch.float64))
    # A quarter turn about y takes +z, the front, to +x, the right.
    quarter = rotation_of((math.cos(math.pi / 4), 0.0, math.sin(math.pi / 4), 0.0))
    torch.testing.assert_close(quarter @ torch.tensor([0.0, 0, 1]).double(), torch.tensor([1.0, 0, 0]).double())


@pytest.mark.parametrize("aspect", [1.0, 1.5, 16 / 9, 2.37, 0.5, 0.77])
def test_the_window_is_the_middle_of_the_square(aspect: float) -> None:
    view = dataclasses.replace(FRONT, aspect=aspect)
    height, width = view.shape()
    assert min(height, width) == 16 and (height - width) % 2 == 0
    assert abs(max(height, width) - 16 * max(aspect, 1 / aspect)) <= 1
    # The window's edges, in the square's rays: between the two pixels' centres on their two sides.
    side, camera = max(height, width), view.cameras()
    _, directions = camera.rays(2 * side, 2 * side)
    grid, forward = directions.view(2 * side, 2 * side, 3), -camera.poses[0, :3, 2]
    top, left = side - height, side - width

    def tangent(one: torch.Tensor, other: torch.Tensor) -> float:
        across = one / (one @ forward) - other / (other @ forward)
        return float(across.norm()) / 2

    vertical = tangent(grid[top, side], grid[top + 2 * height - 1, side]) * 2 * height / (2 * height - 1)
    horizontal = tangent(grid[side, left], grid[side, left + 2 * width - 1]) * 2 * width / (2 * width - 1)
    assert math.degrees(2 * math.atan(vertical)) == pytest.approx(40.0, abs=1e-3)
    assert horizontal / vertical == pytest.approx(aspect, rel=1e-4)  # to which the browser stretches the picture


def test_channels_show_what_they_say() -> None:
    scene = TorusScene()
    pictures = {name: draw(scene, dataclasses.replace(FRONT, channels=name), CPU) for name in CHANNELS}
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in pictures.values())
    assert pictures["decoded"].shape[:2] == (128, 128)
    out = scene.render(Cameras.orbit(0.0, 20.0))
    shown = {name: picture[::32, ::32] for name, picture in pictures.items() if name != "decoded"}
    opacity = out.opacity[0, 0].numpy()
    np.testing.assert_allclose(shown["opacity"][..., 0] / 255, opacity, atol=0.01)
    inside = opacity > 0.98
    assert inside.sum() > 20 and not inside.all()
    # Near is bright: white 1.2 before the middle of the scene, which is 3.6 away, black 1.2 behind it.
    brightness = opacity * (1 - (out.depth[0, 0].numpy() / opacity.clip(1e-6) - 2.4) / 2.4).clip(0, 1)
    np.testing.assert_allclose(shown["depth"][..., 0] / 255, brightness, atol=0.01)
    assert np.ptp(brightness[inside]) > 0.2
    assert (shown["depth"][opacity < 0.01] <= 2).all()
    assert out.normals is None
    normals = scene.render(Cameras.orbit(0.0, 20.0), normals=True).normals
    assert normals is not None
    expected = (0.5 + 0.5 * normals[0].permute(1, 2, 0).numpy()) * 255
    np.testing.assert_allclose(shown["normals"][inside], expected[inside], atol=6)
    np.testing.assert_allclose(
        shown["raw latents"] / 255, (out.latents[0, :3].permute(1, 2, 0).numpy() / 5 + 0.5).clip(0, 1), atol=0.01
    )
    dark, bright = (draw(scene, dataclasses.replace(FRONT, shade=shade), CPU).mean() for shade in (0.0, 1.0))
    assert bright > dark + 20
    with pytest.raises(ValueError, match="channels: expected one of decoded"):
        draw(scene, dataclasses.replace(FRONT, channels="smell"), CPU)


def test_a_wide_window_shows_more_at_its_sides_and_the_same_amid() -> None:
    square = draw(TorusScene(), dataclasses.replace(FRONT, channels="opacity"), CPU)
    wide = draw(TorusScene(), dataclasses.replace(FRONT, channels="opacity", aspect=1.75), CPU)
    assert square.shape[:2] == (512, 512) and wide.shape[:2] == (512, 28 * 32)
    assert np.abs(wide[:, 6 * 32 : 22 * 32].astype(int) - square).max() <= 1


@pytest.fixture
def scene() -> TorusScene:
    return TorusScene()


def test_a_visitor_sees_what_is_drawn(viser: None, scene: TorusScene) -> None:
    from ldp_fast.apps.text_to_3d.viewer.pictures import first_camera
    from ldp_fast.apps.text_to_3d.viewer.server import Viewer

    with Viewer(lambda step: scene, 0) as viewer:
        assert urllib.request.urlopen(viewer.url, timeout=10).status == 200
        watcher = Watcher(FRONT)
        name = viewer.join(watcher)
        watcher.wait(1)
        picture, final = watcher.pictures[0]
        assert final and (picture == draw(TorusScene(), FRONT, CPU)).all()
        watcher.wanted = view_of(Cameras.orbit(120.0, 20.0))
        viewer.moved(name)
        watcher.wait(2)
        assert (watcher.pictures[-1][0] != picture).any()
        watcher.wanted = dataclasses.replace(watcher.wanted, channels="smell")
        viewer.changed(name)
        watcher.wait(3)
        assert watcher.errors == ["ValueError: channels: expected one of " + ", ".join(CHANNELS) + "; got 'smell'"]
        watcher.wanted = FRONT  # an error ends nothing
        viewer.changed(name)
        watcher.wait(4)
        assert (watcher.pictures[-1][0] == picture).all()
        viewer.leave(name)
        viewer.moved(name)
        viewer.update(5, {})
        other = Watcher(FRONT)
        viewer.join(other)
        other.wait(1)
        assert len(watcher.pictures) == 3
    assert not [t for t in threading.enumerate() if t.name == "viewer"]
    position, fov = first_camera(scene)
    torch.testing.assert_close(torch.tensor(position), Cameras.orbit(0.0, 20.0).positions[0])
    assert math.degrees(fov) == pytest.approx(40.0)


def test_a_slow_size_is_lowered_while_the_camera_moves(viser: None, scene: TorusScene) -> None:
    from ldp_fast.apps.text_to_3d.viewer import server as module

    with module.Viewer(lambda step: scene, 0) as viewer:
        watcher = Watcher(dataclasses.replace(FRONT, size=32))
        name = viewer.join(watcher)
        watcher.wait(1)
        for key in viewer._seconds:
            viewer._seconds[key] = 2 * module.SMOOTH
        viewer.moved(name)
        watcher.wait(3)
    assert scene.sizes == [32, 16, 32]
    assert [final for _, final in watcher.pictures] == [True, False, True]


def test_checkpoints_change_for_all_and_a_damaged_one_says_so(viser: None) -> None:
    from ldp_fast.apps.text_to_3d.viewer.server import Viewer

    loaded = []

    def provide(step: int | None) -> TorusScene:
        loaded.append(step)
        if step == 200:
            raise UsageError("step-000200.safetensors is damaged")
        return TorusScene(step or 300)

    with Viewer(provide, 0, steps=lambda: [100, 200, 300]) as viewer:
        watchers = [Watcher(FRONT), Watcher(FRONT)]
        for watcher in watchers:
            viewer.join(watcher)
            watcher.wait(1)
        viewer.choose(100)
        for watcher in watchers:
            watcher.wait(2)
            assert watcher.texts[0] == "step 300" and watcher.texts[-1] == "step 100"
            assert (watcher.pictures[0][0] != watcher.pictures[1][0]).any()
        viewer.choose(200)
        for watcher in watchers:
            watcher.wait(3)
            assert watcher.texts[-1] == ("step 100, for step 200 cannot be shown: step-000200.safetensors is damaged")
            assert not watcher.errors and (watcher.pictures[2][0] == watcher.pictures[1][0]).all()
        assert loaded == [None, 100, 200]


def train(watch: bool) -> tuple[dict[str, torch.Tensor], torch.Tensor, int]:
    """Twelve steps of a small field, with global randomness; watched by two visitors that never rest."""
    torch.manual_seed(0)
    field = LatentField(HashGrid(n_levels=4, log2_table_size=10, base_resolution=4, finest_resolution=32), hidden=16)
    renderer = LatentRenderer(field, OccupancyGrid(resolution=16), steps_per_ray=32)
    assert renderer.occupancy is not None
    optimiser = FusedAdam(field.parameter_groups(1e-2), eps=1e-15)
    scene = TorusScene(renderer=renderer).train()

    def advance(step: int) -> float:
        assert renderer.occupancy is not None
        if step % 4 == 0:
            renderer.occupancy.update(field)
        assert scene.training and renderer.training
        azimuth = float(torch.rand(()) * 360)
        out = renderer(Cameras.orbit(azimuth), 16, 16, seed=step)
        loss = (out.latents - torch.randn(4)[:, None, None]).square().mean() + 0.1 * out.opacity.mean()
        loss.backward()
        optimiser.step()
        return loss.item()

    drawn = 0
    if not watch:
        for step in range(12):
            advance(step)
    else:
        from ldp_fast.apps.text_to_3d.viewer.server import Viewer

        with Viewer(lambda step: scene, 0) as viewer:
            watchers = [Watcher(dataclasses.replace(FRONT, channels=name)) for name in ("decoded", "normals")]
            names = [viewer.join(watcher) for watcher in watchers]
            for step in range(12):
                with viewer.lock:
                    loss = advance(step)
                viewer.update(step + 1, {"loss": loss})
                for place, (name, watcher) in enumerate(zip(names, watchers, strict=True)):
                    watcher.wanted = view_of(Cameras.orbit(30.0 * step), channels=("decoded", "normals")[place])
                    viewer.changed(name)
            for watcher in watchers:
                watcher.wait(3)
                assert not watcher.errors
                assert any(text.startswith("step ") and "loss" in text for text in watcher.texts)
            drawn = sum(len(watcher.pictures) for watcher in watchers)
    state = {name: value.clone() for name, value in renderer.state_dict().items()}
    return state, torch.rand(4), drawn


def test_training_is_the_same_to_the_bit_when_it_is_watched(viser: None) -> None:
    alone, after_alone, _ = train(watch=False)
    watched, after_watched, drawn = train(watch=True)
    assert drawn >= 6
    assert alone.keys() == watched.keys()
    for name in alone:
        assert torch.equal(alone[name], watched[name]), name
    assert torch.equal(after_alone, after_watched)


def test_without_the_guard_the_test_above_would_notice(viser: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from ldp_fast.apps.text_to_3d.viewer import server as module

    monkeypatch.setattr(module, "undisturbed", lambda scene: contextlib.nullcontext())
    with pytest.raises(AssertionError):
        test_training_is_the_same_to_the_bit_when_it_is_watched(None)


@pytest.mark.parametrize(
    ("port", "host", "message"),
    [
        (-1, "127.0.0.1", "port: expected a number from 0 to 65535, got -1"),
        (70000, "127.0.0.1", "port: expected a number from 0 to 65535, got 70000"),
        (0, "no.such.host.invalid", "host: expected an address of this machine such as 127.0.0.1, got 'no.such.host"),
        (0, "192.0.2.1", "host: expected an address of this machine such as 127.0.0.1, got '192.0.2.1'"),
    ],
)
def test_addresses_that_cannot_be_served(viser: None, port: int, host: str, message: str) -> None:
    from ldp_fast.apps.text_to_3d.viewer.server import Viewer

    def provide(step: int | None) -> TorusScene:
        raise AssertionError("loaded before the address was looked at")

    with pytest.raises(UsageError) as caught:
        Viewer(provide, port, host)
    assert str(caught.value).startswith(message)


def test_a_taken_port_is_named(
    viser: None, scene: TorusScene, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ldp_fast.apps.text_to_3d.viewer import server as module

    message = f"port: expected a free one, got {taken_port}, which is taken on 127.0.0.1"
    with pytest.raises(UsageError) as caught:
        module.Viewer(lambda step: scene, taken_port)
    assert str(caught.value) == message
    # Taken between the look and the start: viser goes on to the next port, the viewer does not.
    monkeypatch.setattr(module, "check_address", lambda host, port: None)
    with pytest.raises(UsageError) as caught:
        module.Viewer(lambda step: scene, taken_port)
    assert str(caught.value) == message
    assert not [t for t in threading.enumerate() if t.name == "viewer"]
