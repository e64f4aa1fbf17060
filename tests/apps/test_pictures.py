"""What a run leaves to look at: that pictures show what was rendered, that films play, that memory is bounded."""

from __future__ import annotations

import builtins
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ldp_fast.apps.text_to_3d.pictures import frames
from ldp_fast.apps.text_to_3d.pictures import products as pictures
from ldp_fast.apps.text_to_3d.pictures.frames import (
    CHANNELS,
    SOLID,
    DepthRange,
    Views,
    blurred,
    colour,
    render_frames,
    render_views,
)
from ldp_fast.apps.text_to_3d.pictures.trajectories import RISE, trajectory
from ldp_fast.errors import UsageError
from ldp_fast.metrics import normal_noise
from ldp_fast.nerf import Cameras
from ldp_fast.runs import films

from .toy_scene import SolidTorus, ToyScene


@pytest.fixture
def scene() -> ToyScene:
    return ToyScene()


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Makes a package as good as not installed."""
    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_trajectories_start_at_the_front_and_close() -> None:
    place = {"elevation": 20.0, "radius": 3.6, "fov": 40.0}
    orbit = trajectory("orbit", 8, **place)
    torch.testing.assert_close(orbit.azimuth, torch.arange(8) * 45.0, atol=1e-3, rtol=0)
    torch.testing.assert_close(orbit.elevation, torch.full((8,), 20.0), atol=1e-3, rtol=0)
    spiral = trajectory("spiral", 16, **place)
    assert float(spiral.elevation.max()) == pytest.approx(20 + RISE, abs=1e-3)
    assert float(spiral.elevation.min()) == pytest.approx(20 - RISE, abs=1e-3)
    assert float(spiral.azimuth[1]) == pytest.approx(45, abs=1e-3), "two turns"
    assert float(trajectory("spiral", 16, elevation=85.0, radius=3.6, fov=40.0).elevation.max()) < 90
    views = trajectory("views", 9, **place)
    assert len(views) == 9 and float(views.elevation[-1]) == pytest.approx(80, abs=1e-3)
    assert float(views.azimuth[2]) == pytest.approx(90, abs=1e-3)
    for name in ("orbit", "spiral", "views"):
        single = trajectory(name, 1, **place)
        assert len(single) == 1 and float(single.elevation) == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "helix"}, "trajectory: expected one of orbit, spiral, views; got 'helix'"),
        ({"frames": 0}, "frames: expected at least 1, got 0"),
        ({"elevation": 91.0}, "elevation: expected degrees from -90 to 90, got 91"),
        ({"radius": 0.0}, "radius: expected a positive number, got 0"),
        ({"fov": 180.0}, "fov: expected degrees between 0 and 180, got 180"),
    ],
)
def test_trajectories_out_of_range(changes: dict[str, Any], message: str) -> None:
    values = {"name": "orbit", "frames": 2, "elevation": 20.0, "radius": 3.6, "fov": 40.0, **changes}
    with pytest.raises(UsageError) as caught:
        trajectory(values.pop("name"), values.pop("frames"), **values)
    assert str(caught.value) == message


@pytest.mark.parametrize("border", [0.0, 1.0])
def test_tiles_and_batches_are_the_whole_view(scene: ToyScene, border: float) -> None:
    scene.border = border
    cameras = trajectory("views", 3, **scene.orbit)
    whole = render_views(scene, cameras, 20, normals=True, rays=10**6)
    scene.rendered.clear()
    for rays in (20 * 20, 150, 49):
        parts = render_views(scene, cameras, 20, normals=True, rays=rays)
        assert max(scene.rendered) <= rays
        scene.rendered.clear()
        for name in ("latents", "opacity", "depth", "normals"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=2e-3, rtol=1e-3)


def test_a_background_that_nothing_shows_is_not_made(scene: ToyScene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder takes longer for a large one than the views take."""

    def made(*arguments: object) -> Tensor:
        raise AssertionError("it was made")

    monkeypatch.setattr(scene, "behind", made)
    cameras = trajectory("views", 2, **scene.orbit)
    assert len(list(render_frames(scene, cameras, SOLID, size=8, pixels=16))) == 2
    assert len(render_views(scene, cameras, 20, greys=False, rays=150).depth) == 2
    with pytest.raises(AssertionError, match="it was made"):
        list(render_frames(scene, cameras, ["latents"], size=8, pixels=16))


def test_depth_is_bright_where_near_and_black_behind(scene: ToyScene) -> None:
    views = render_views(scene, Cameras.orbit(0.0, 0.0), 32)
    shown = colour(scene, views, "depth")[0].mean(0)
    distance = (views.depth / views.opacity.clamp(min=1e-6))[0, 0]
    solid = views.opacity[0, 0] > 0.98
    assert shown[views.opacity[0, 0] < 1e-4].max() < 1e-3
    assert shown[solid].min() > 0.1, "the farthest part stands out from the background"
    order = distance[solid].argsort()
    near_first = shown[solid][order]
    assert (near_first[:-1] - near_first[1:] > -1e-2).all() and near_first[0] > near_first[-1] + 0.3
    # The same range for all views: what is farther from its camera is darker.
    span = DepthRange.among(views)
    far = render_views(scene, Cameras.orbit(0.0, 0.0, 4.0), 32)
    assert colour(scene, far, "depth", span).mean() < colour(scene, views, "depth", span).mean()


def test_normals_are_colours_of_world_axes(scene: ToyScene) -> None:
    above = colour(scene, render_views(scene, Cameras.orbit(0.0, 90.0), 32, normals=True), "normals")[0]
    solid = above.sum(0) > 1.0
    assert above[1][solid].mean() > 0.85, "seen from above they point up, and up is green"
    side = colour(scene, render_views(scene, Cameras.orbit(90.0, 0.0), 32, normals=True), "normals")[0]
    assert side[0, 16, 16] > 0.95 and abs(float(side[2, 16, 16]) - 0.5) < 0.1, "seen from +x they point to +x: red"
    assert above[:, 0, 0].max() < 1e-6


class SpeckledTorus(SolidTorus):
    """Its normals point anywhere within about forty degrees, as gradients of a hash grid's density do."""

    def normals(self, positions: torch.Tensor) -> torch.Tensor:
        noise = torch.stack([(positions @ torch.tensor(x) * 1e4).sin() for x in ((3.1, 1.7, 2.3), (1.9, 2.9, 3.7))])
        return F.normalize(super().normals(positions) + F.pad(noise.T, (0, 1)), dim=1)


@pytest.mark.parametrize("refined", [False, True])
def test_shown_normals_have_no_speckle(refined: bool) -> None:
    scene = ToyScene(size=16, field=SpeckledTorus())
    if refined:  # the density is as coarse as before
        scene.latent_size, scene.size, scene.display_size, scene.refined = 16, 64, 64, True  # type: ignore[attr-defined]
    cameras = Cameras.orbit([0.0, 130.0], 40.0)
    views = render_views(scene, cameras, 64, normals=True)  # type: ignore[arg-type]
    assert views.normals is not None and normal_noise(views.normals, views.opacity) > 12
    shown = torch.stack(list(render_frames(scene, cameras, ("normals",), pixels=64)))  # type: ignore[arg-type]
    normals = shown - 0.5 * views.opacity
    assert normal_noise(normals, views.opacity) < 3
    truth = render_views(ToyScene(size=16), cameras, 64, normals=True).normals  # type: ignore[arg-type]
    cosine = F.cosine_similarity(normals, truth)[views.opacity[:, 0] > 0.99]
    assert cosine.mean() > 0.95


def test_blurring_keeps_means_and_borders() -> None:
    picture = torch.zeros(1, 2, 21, 21)
    picture[0, 0, 10, 10], picture[0, 1] = 1.0, torch.arange(21.0)
    soft = blurred(picture, 1.5)
    assert soft[0, 0].sum() == pytest.approx(1) and torch.equal(soft[0, 0], soft[0, 0].T)
    offsets = torch.arange(21.0) - 10
    assert (soft[0, 0].sum(0) * offsets.square()).sum().sqrt() == pytest.approx(1.5, rel=0.02)
    assert (soft[0, 1, :, 6:-6] - picture[0, 1, :, 6:-6]).abs().max() < 1e-4


def test_nothing_to_see_is_black_and_finite() -> None:
    class Nothing(torch.nn.Module):
        bound = 1.0

        def forward(self, x: torch.Tensor, count: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return x.new_zeros(len(x)), x.new_zeros(len(x), 4)

        def normals(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    empty = ToyScene(field=Nothing())
    cameras = trajectory("orbit", 2, **empty.orbit)
    shown = torch.stack(list(render_frames(empty, cameras, ("depth", "normals", "opacity"), pixels=16)))
    assert torch.equal(shown, torch.zeros_like(shown))


def test_channels_stand_side_by_side_at_one_size(scene: ToyScene) -> None:
    cameras = trajectory("orbit", 3, **scene.orbit)
    every = list(render_frames(scene, cameras, CHANNELS, pixels=48))
    assert [x.shape for x in every] == [(3, 48, 5 * 48)] * 3
    assert all(x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1 for x in every)
    for index, name in enumerate(CHANNELS):
        alone = torch.stack(list(render_frames(scene, cameras, [name], pixels=48)))
        torch.testing.assert_close(alone, torch.stack(every)[..., index * 48 : (index + 1) * 48])
    # 8 latents per side are decoded to 32 pixels, and enlarged by a whole number.
    assert next(render_frames(scene, cameras)).shape == (3, 256, 256)
    blocks = next(render_frames(scene, cameras, ["latents"])).unfold(1, 32, 32).unfold(2, 32, 32)
    assert torch.equal(blocks.amax((3, 4)), blocks.amin((3, 4))), "a latent is a square of one colour"


def test_memory_is_bounded(scene: ToyScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "LATENTS", 3 * 64)
    shown = render_frames(scene, trajectory("orbit", 8, **scene.orbit), ["decoded"])
    next(shown)
    assert scene.decoded == [3], "frames are made as they are asked for"
    assert len(list(shown)) == 7 and scene.decoded == [3, 3, 2]
    assert max(scene.rendered) == 3 * 64


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"channels": ["depth", "colour"]},
            "channels: expected some of decoded, latents, depth, normals, opacity; got",
        ),
        ({"channels": []}, "channels: expected some of"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"pixels": 0}, "pixels: expected at least 1, got 0"),
        ({"shade": 1.5}, "shade: expected a number from 0 to 1, got 1.5"),
    ],
)
def test_frames_out_of_range(scene: ToyScene, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        render_frames(scene, trajectory("orbit", 1, **scene.orbit), **changes)
    assert not scene.rendered


def test_everything_is_written(scene: ToyScene, tmp_path: pathlib.Path) -> None:
    av = pytest.importorskip("av", reason="writes the MP4")
    written = [*pictures.write_grids(scene, tmp_path), *pictures.write_turntable(scene, tmp_path, frames=16)]
    names = {"views.png", "depth.png", "opacity.png", "normals.png", "turntable.mp4", "turntable.gif"}
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()} == names
    for name in names - {"turntable.mp4", "turntable.gif"}:
        assert Image.open(tmp_path / name).size == (768, 768)
    sheet = np.asarray(Image.open(tmp_path / "views.png")).astype(int)
    # Channel 0 is the sine of the azimuth: the view from +x (third of the first row) is redder than its opposite.
    right, left = sheet[:256, 512:], sheet[512:, :256]
    assert right[128, 128, 0] > 160 and left[128, 128, 0] < 95
    with av.open(str(tmp_path / "turntable.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert (stream.width, stream.height, float(stream.average_rate)) == (256, 256, 25.0)
        film = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(film) == 16
    # The fifth frame is a quarter turn on: what views.png shows third.
    assert np.abs(film[4].astype(int) - right).mean() < 4
    with Image.open(tmp_path / "turntable.gif") as gif:
        assert gif.n_frames == 8 and gif.info["loop"] == 0 and gif.info["duration"] == 80
        gif.seek(2)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - right).mean() < 4


def test_colours_of_a_film_are_those_given(tmp_path: pathlib.Path) -> None:
    av = pytest.importorskip("av", reason="writes the MP4")
    colours = [(230, 40, 30), (20, 200, 60), (30, 40, 220), (240, 240, 40), (128, 128, 128)]
    films.write_mp4(tmp_path / "film.mp4", (np.full((33, 49, 3), c, np.uint8) for c in colours), 10)
    data = (tmp_path / "film.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat"), "a browser plays it before it has all of it"
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (50, 34), "odd sizes are extended"
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for frame, colour_ in zip(seen, colours, strict=True):
        assert np.abs(frame.astype(int) - colour_).max() <= 4
    films.write_gif(tmp_path / "film.gif", [np.full((8, 8, 3), c, np.uint8) for c in colours], 10)
    with Image.open(tmp_path / "film.gif") as gif:
        for index, colour_ in enumerate(colours):
            gif.seek(index)
            assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - colour_).max() <= 2


def test_without_pyav_only_the_mp4_is_left_out(
    scene: ToyScene, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hide(monkeypatch, "av")
    written = pictures.write_turntable(scene, tmp_path, frames=4)
    assert [path.name for path in written] == ["turntable.gif"] == [path.name for path in tmp_path.iterdir()]
    said = capsys.readouterr().err.strip()
    assert "turntable.mp4 is left out: av is not installed: pip install 'ldp-fast[apps]'" in said
    assert len(said.splitlines()) == 1


def test_a_film_that_fails_leaves_the_old_one(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("av", reason="writes the MP4")

    def broken() -> Any:
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    for write, name in ((films.write_mp4, "film.mp4"), (films.write_gif, "film.gif")):
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / name, broken(), 25)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"film.mp4": b"old", "film.gif": b"old"}


def test_a_preview_is_a_row(scene: ToyScene) -> None:
    assert pictures.preview(scene).shape == (3, 256, 4 * 256)


def test_normals_have_to_be_rendered(scene: ToyScene) -> None:
    zeros = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="normals=True"):
        colour(scene, Views(zeros.expand(-1, 4, -1, -1), zeros, zeros), "normals")
