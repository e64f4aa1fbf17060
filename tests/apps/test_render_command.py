"""`ldp-fast render`: what the endings of --out give, that nothing is rendered for nothing, and its errors."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps.text_to_3d.pictures import command as render
from ldp_fast.apps.text_to_3d.pictures.frames import CHANNELS

from .test_pictures import hide
from .toy_scene import ToyScene


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The command shows a toy scene; returns what was asked of `load_scene`."""
    calls: list[tuple[Any, ...]] = []

    def load(folder: pathlib.Path, step: int | None = None, device: str | None = None) -> ToyScene:
        calls.append((folder, step, device))
        return ToyScene()

    monkeypatch.setattr(render, "load_scene", load)
    return calls


def test_a_grid_of_views(asked: list[Any], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "views.png"
    words = ["render", str(tmp_path), "--trajectory", "views", "--checkpoint", "5", "--device", "cpu"]
    assert cli.main([*words, "--out", str(out), "--channels", "decoded", "opacity", "--pixels", "40"]) == 0
    assert Image.open(out).size == (3 * 80, 3 * 40)
    assert asked == [(tmp_path, 5, "cpu")]
    assert capsys.readouterr().out.strip() == f"{out} (9 frames, step 7)"


def test_a_film_beside_the_run(asked: list[Any], tmp_path: pathlib.Path) -> None:
    av = pytest.importorskip("av", reason="writes the MP4")
    words = ["render", str(tmp_path), "--frames", "6", "--fps", "12", "--channels", "depth", "normals"]
    assert cli.main([*words, "--size", "8"]) == 0
    with av.open(str(tmp_path / "orbit-depth-normals.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (512, 256, 12.0)
        assert sum(1 for _ in container.decode(video=0)) == 6


def test_a_gif_and_a_folder_of_frames(asked: list[Any], tmp_path: pathlib.Path) -> None:
    words = ["render", str(tmp_path), "--trajectory", "spiral", "--frames", "5", "--pixels", "32", "--fps", "10"]
    assert cli.main([*words, "--out", str(tmp_path / "s.gif")]) == 0
    assert cli.main([*words, "--out", str(tmp_path / "frames")]) == 0
    stills = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in stills] == [f"{i:04d}.png" for i in range(5)]
    with Image.open(tmp_path / "s.gif") as gif:
        assert gif.n_frames == 5 and gif.info["duration"] == 100
        for index, path in enumerate(stills):
            gif.seek(index)
            shown, still = (np.asarray(x.convert("RGB")).astype(int) for x in (gif, Image.open(path)))
            assert np.abs(shown - still).mean() < 4


def test_the_camera_follows_the_flags(asked: list[Any], tmp_path: pathlib.Path) -> None:
    def share(*flags: str) -> float:
        out = tmp_path / "one.png"
        words = ["render", str(tmp_path), "--frames", "1", "--channels", "opacity", "--out", str(out)]
        assert cli.main([*words, *flags]) == 0
        return float(np.asarray(Image.open(out)).mean() / 255)

    usual = share()
    assert share("--radius", "5") < 0.7 * usual
    assert share("--fov", "30") > 1.3 * usual
    assert share("--elevation", "0") < 0.9 * usual, "a torus is thin from the side"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "film.avi"], "--out: expected a name ending in .mp4, .gif, .png, or a folder; got 'film.avi'"),
        (["--out", "kept"], "--out: expected a new or empty folder for the frames, and kept is neither"),
        (["--out", "kept.png"], "--out: expected a file, and kept.png is a folder"),
        (["--out", "a.gif", "--fps", "0"], "--fps: expected 1 to 240, got 0"),
        (["--out", "a.gif", "--frames", "0"], "frames: expected at least 1, got 0"),
        (["--out", "a.gif", "--trajectory", "helix"], "trajectory: expected one of orbit, spiral, views; got 'helix'"),
        (["--out", "a.gif", "--channels", "colour"], "channels: expected some of decoded, latents, depth"),
        (["--out", "a.gif", "--size", "0"], "size: expected at least 1, got 0"),
        (["--out", "a.gif", "--radius", "-1"], "radius: expected a positive number, got -1"),
        (["--out", "a.gif", "--shade", "2"], "shade: expected a number from 0 to 1, got 2"),
        (["--frames", "many"], "argument --frames: invalid int value: 'many'"),
    ],
)
def test_errors_are_one_line_and_write_nothing(
    asked: list[Any],
    words: list[str],
    message: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("kept", "kept.png"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.txt").write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["render", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error
    assert sorted(tmp_path.rglob("*")) == before


def test_an_mp4_without_pyav_is_refused_before_anything_is_loaded(
    asked: list[Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    hide(monkeypatch, "av")
    assert cli.main(["render", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == "ldp-fast: error: av is not installed: pip install 'ldp-fast[apps]'"
    assert not asked


@pytest.mark.usefixtures("quick_products")
@pytest.mark.parametrize("method", ["latent-nerf", "jacobian-nerf"])
def test_a_run_of_the_embedded_model(method: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "run"
    words = ["text-to-3d", "a red cube", "--method", method, "--views", "1", "--device", "cpu"]
    # The last step of a latent field is one of its refinement to RGB.
    refined = ["--steps", "1", "--refinement-steps", "1", "--refinement-size", "16"]
    words += refined if method == "latent-nerf" else ["--steps", "2"]
    words += ["--lambda-fm", "0", "--size", "8", "--steps-per-ray", "32", "--supersample", "1"]
    assert cli.main([*words, "--checkpoint-every", "1", "--out", str(folder)]) == 0
    out = tmp_path / "all.png"
    flags = ["--frames", "2", "--channels", *CHANNELS, "--out", str(out)]
    assert cli.main(["render", str(folder), *flags]) == 0
    assert Image.open(out).size == (2 * 5 * 256, 256)
    latest = out.read_bytes()
    assert cli.main(["render", str(folder), *flags, "--checkpoint", "1"]) == 0
    assert out.read_bytes() != latest
    capsys.readouterr()
    assert cli.main(["render", str(folder), *flags, "--checkpoint", "3"]) == 2
    assert f"--checkpoint: expected one of 1, 2, which {folder} has; got 3" in capsys.readouterr().err
    assert cli.main(["render", str(tmp_path / "nowhere"), *flags]) == 2
    error = capsys.readouterr().err.strip()
    assert "nowhere" in error and len(error.splitlines()) == 1
