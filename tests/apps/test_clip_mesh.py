"""CLIP-Mesh as a command: a run, the rest of one, its products, a sweep and its metric, and what is refused."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch

from ldp_fast.apps import registry
from ldp_fast.apps.clip_mesh import products, rasterisers, run, views
from ldp_fast.apps.clip_mesh.configuration import ClipMesh, resolve
from ldp_fast.apps.clip_mesh.experiment import ClipMeshExperiment
from ldp_fast.apps.clip_mesh.guide import Guide, load_guide
from ldp_fast.apps.clip_mesh.run import begin, expect, judged, load_sculpture
from ldp_fast.apps.clip_mesh.sculpture import Sculpture
from ldp_fast.apps.memory import counted
from ldp_fast.cli import main
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints, image_files

pytest.importorskip("deodr")
trimesh = pytest.importorskip("trimesh")

SMALL: dict[str, Any] = {"level": 1, "refinement": 1, "texture": 8, "views": 2, "size": 32}
FLAGS = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
PROMPT = "a red cube"


@pytest.fixture(scope="module")
def guide() -> Guide:
    return load_guide(configuration())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Films of few, small pictures."""
    monkeypatch.setattr(products, "FRAMES", 4)
    monkeypatch.setattr(products, "SIZE", 32)


def configuration(**said: Any) -> ClipMesh:
    return ClipMesh.from_plain(resolve({"prompt": PROMPT, "device": "cpu", "steps": 4, **SMALL, **said}))


def command(*words: str) -> int:
    return main(["clip-mesh", *words])


def test_a_run_leaves_views_a_film_and_a_mesh(tmp_path: pathlib.Path, quick: None) -> None:
    folder = tmp_path / "run"
    assert command(PROMPT, *FLAGS, "--steps", "3", "--out", str(folder), "--preview", "2") == 0
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 3 and set(record["last"]) == {"clip", "laplacian"}
    for name in ("config.yaml", "preview.png", "turntable.mp4", "turntable.gif", "mesh.glb"):
        assert (folder / name).stat().st_size > 0
    views = image_files.read_images([folder / "views.png"])[0]
    assert views.shape == (3, 96, 96) and views.std() > 0.01
    about = json.loads((folder / "mesh.json").read_text())
    assert about["watertight"] and (about["vertices"], about["faces"]) == (162, 320)
    scene = trimesh.load(folder / "mesh.glb")
    (mesh,) = scene.geometry.values()
    assert len(mesh.faces) == 320 and mesh.visual.kind == "texture"
    assert mesh.visual.material.baseColorTexture.size == (8, 8)
    sculpture = load_sculpture(folder, configuration(steps=3))
    wanted = sculpture.mesh.positions().detach().numpy()
    distance = np.abs(mesh.vertices[:, None] - wanted).sum(2)
    assert distance.min(1).max() < 1e-5 and mesh.volume == pytest.approx(about["volume"], rel=1e-4)
    # Where a viewer looks on the texture there is what is drawn; all directions meet in the poles.
    looked = textured(np.asarray(mesh.visual.material.baseColorTexture) / 255.0, mesh.visual.uv)
    different = np.abs(looked - sculpture.mesh.colours().detach().numpy()[distance.argmin(1)]).max(1)
    assert different[np.abs(mesh.visual.uv[:, 1] - 0.5) < 0.4].max() < 0.01


def test_a_films_frames_are_drawn_one_by_one(
    tmp_path: pathlib.Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sculpture = Sculpture(configuration(), torch.device("cpu"))
    look, many = Sculpture.look, []

    def noted(self: Sculpture, azimuth: list[float], *args: Any) -> torch.Tensor:
        many.append(len(azimuth))
        return look(self, azimuth, *args)

    monkeypatch.setattr(Sculpture, "look", noted)
    assert [path.name for path in products.write_film(sculpture, tmp_path)] == ["turntable.mp4", "turntable.gif"]
    assert many == [1] * 4 and "turntable" in capsys.readouterr().err


def textured(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Colours [M, 3] of a picture [H, W, 3] at places, v upwards, bilinear, repeated to the sides (glTF 2.0)."""
    height, width, _ = picture.shape
    column, row = uv[:, 0] * width - 0.5, ((1 - uv[:, 1]) * height - 0.5).clip(0, height - 1)
    left, above = np.floor(column).astype(int), np.floor(row).astype(int)
    found = np.zeros((len(uv), 3))
    for i in (0, 1):
        for j in (0, 1):
            share = np.abs(1 - i - (row - above)) * np.abs(1 - j - (column - left))
            found += share[:, None] * picture[np.minimum(above + i, height - 1), (left + j) % width]
    return found


def test_a_resumed_run_is_the_whole_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [PROMPT, *FLAGS, "--steps", "4", "--checkpoint-every", "2", "--no-film", "--no-mesh"]
    monkeypatch.setattr(products, "SIZE", 32)
    assert command(*words, "--out", str(tmp_path / "whole")) == 0
    advance = ClipMeshExperiment.advance

    def cut_off(self: ClipMeshExperiment, *args: Any) -> None:
        if self.step == 3:
            raise KeyboardInterrupt
        advance(self, *args)

    monkeypatch.setattr(ClipMeshExperiment, "advance", cut_off)
    assert command(*words, "--out", str(tmp_path / "parts")) == 130
    assert f"ldp-fast clip-mesh --resume {tmp_path / 'parts'}" in capsys.readouterr().err
    monkeypatch.setattr(ClipMeshExperiment, "advance", advance)
    assert command("--resume", str(tmp_path / "parts"), "--no-film", "--no-mesh") == 0
    for name in ("views.png", "config.yaml"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name
    whole, parts = (
        checkpoints.read(checkpoints.path_of(tmp_path / name, 4), configuration().fingerprint())
        for name in ("whole", "parts")
    )
    assert checkpoints.digest(whole[0]) == checkpoints.digest(parts[0]) and whole[1] == parts[1]


def test_it_follows_clip(guide: Guide) -> None:
    experiment = ClipMeshExperiment(configuration(steps=12, learning_rate=0.03), guide)
    seen = []
    while experiment.step < 12:
        experiment.advance()
        seen.append(experiment.latest()["clip"])
    assert np.mean(seen[-3:]) < np.mean(seen[:3]) - 0.02
    assert not experiment.not_finite()
    experiment.sculpture.mesh.control.data[0] = float("nan")
    assert experiment.not_finite() == ["control points are"]


@pytest.mark.parametrize(("many", "plain"), [(1, [1, None]), (2, [1, None]), (5, [3, None])])
def test_untextured_pictures_are_half_at_most(
    many: int, plain: list[int | None], guide: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = ClipMeshExperiment(configuration(views=many, untextured=0.5, steps=2), guide)
    seen, draw = [], views.pictures

    def noted(*args: Any, plain_from: int | None, **more: Any) -> torch.Tensor:
        seen.append(plain_from)
        return draw(*args, plain_from=plain_from, **more)

    monkeypatch.setattr(views, "pictures", noted)
    mesh = experiment.sculpture.mesh
    for _ in range(2):
        start = mesh.texture.detach().clone(), mesh.control.detach().clone()
        experiment.advance()
        assert not torch.equal(mesh.texture, start[0]) and not torch.equal(mesh.control, start[1])
    assert seen == plain


def test_a_gpus_run_is_looked_at_on_a_cpu(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "SIZE", 32)
    words = ["--steps", "1", "--out", str(tmp_path / "run"), "--no-film", "--no-mesh"]
    assert command(PROMPT, *FLAGS, *words) == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (own,) = judged(tmp_path / "run", configuration(steps=1), [(30.0, 20.0)])
    read = checkpoints.read
    fingerprint = configuration(steps=1).fingerprint()
    monkeypatch.setattr(checkpoints, "read", lambda path, of: read(path, fingerprint))
    for rasteriser in rasterisers.NAMES:
        there = configuration(steps=1, device="cuda", rasteriser=rasteriser)
        for device in (None, "cpu"):
            assert torch.equal(judged(tmp_path / "run", there, [(30.0, 20.0)], device)[0], own)
    with pytest.raises(UsageError, match="device: 'xpu' cannot be used here"):
        judged(tmp_path / "run", configuration(steps=1), [(30.0, 20.0)], "xpu")
    instead = load_sculpture(tmp_path / "run", configuration(steps=1))
    assert torch.equal(judged(tmp_path / "nothing", there, [(30.0, 20.0)], load=lambda folder, device: instead)[0], own)


def test_the_gpu_is_looked_for_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], guide: Guide
) -> None:
    monkeypatch.setattr(run, "load_guide", lambda configuration, device: guide)
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device: 'cuda' cannot be used here"):
            begin(configuration(device="cuda", rasteriser="nvdiffrast"))
    monkeypatch.setattr(run, "usable", torch.device)
    monkeypatch.setattr(rasterisers, "drawn_by_gpu", lambda: False)
    begin(configuration(device="cuda"))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("note: pictures are drawn on the CPU; on a GPU: pip install"), said
    begin(configuration())
    assert not capsys.readouterr().err


def test_weight_and_step_size_fall(guide: Guide) -> None:
    experiment = ClipMeshExperiment(configuration(steps=1000, laplacian=[30.0, 0.6]), guide)
    assert experiment.laplacian_weight() == 30
    # The source's own recursion, at the same part of its 5 000 steps.
    weight = 30.0
    for step in range(1, 2001):
        weight = (weight - 0.6) * 10 ** (-step * 1e-6) + 0.6
    experiment.step = 400
    assert experiment.laplacian_weight() == pytest.approx(weight, rel=1e-2)
    experiment.step = 999
    experiment.advance()
    assert experiment.weights()["lr"] == pytest.approx(0.01 * 10 ** (-2e-4 * 5000 * 0.999))


def test_what_it_takes_is_said(guide: Guide) -> None:
    experiment = ClipMeshExperiment(configuration(steps=50), guide)
    before = experiment.state()
    found = expect(experiment)
    assert found.seconds is not None and found.seconds > 0 and 1e5 < found.needed < 1e9
    after = experiment.state()
    assert experiment.step == 0 and all(torch.equal(before[name], after[name]) for name in before)


def test_what_deodr_keeps_is_counted_and_clips_weights_are_not(guide: Guide) -> None:
    few, many = (expect(ClipMeshExperiment(configuration(size=256, views=v), guide)).needed for v in (1, 3))
    # A picture, its depths and what is behind it are float64.
    assert (many - few) / 2 > 256**2 * 7 * 8
    weights = sum(p.numel() * p.element_size() for p in guide.clip.towers.network.vision_model.parameters())
    other = guide.clip.image_size
    with counted(torch.device("cpu"), guide.clip.towers.network.parameters()) as kept:
        found = guide.cosines(torch.zeros(1, 3, other, other, requires_grad=True))
    with counted(torch.device("cpu")) as all_of_it:
        again = guide.cosines(torch.zeros(1, 3, other, other, requires_grad=True))
    assert sum(all_of_it.values()) - sum(kept.values()) > 0.5 * weights
    with counted(torch.device("meta")) as elsewhere:
        guide.cosines(torch.zeros(1, 3, other, other, requires_grad=True))
    assert not elsewhere and torch.equal(found, again)


def test_a_sweep_and_its_metric(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(products, "SIZE", 32)
    (tmp_path / "prompts.txt").write_text("a red cube\na blue cone\n")
    out = str(tmp_path / "out")
    words = ["sweep", str(tmp_path / "prompts.txt"), "--application", "clip-mesh", "--out", out]
    assert main([*words, "--steps", "1", *FLAGS, "--no-film", "--no-mesh", "--seeds", "3"]) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    jobs = [(job["prompt"], job["losses"], job["seed"], len(job["hits"])) for job in table["jobs"]]
    assert jobs == [(prompt, "clip", 3, 3) for prompt in ("a red cube", "a blue cone")]
    assert "| clip-mesh |" in capsys.readouterr().out
    assert main([*words, "--losses", "lsd"]) == 2
    assert "--losses: clip-mesh is guided by CLIP and does not have these terms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], 'prompt: expected one, such as ldp-fast clip-mesh "a red torus"'),
        (["a rd cube"], "did you mean 'red'?"),
        ([PROMPT, "--model", "no/such/model"], "--model: there is no folder 'no/such/model'"),
        ([PROMPT, "--size", "4"], "--size: expected a whole number between 8 and 4096, got 4"),
        ([PROMPT, "--level", "5", "--refinement", "3"], "--refinement: expected at most 2 with a level of 5"),
        ([PROMPT, "--rasteriser", "opengl"], "--rasteriser: expected one of deodr, nvdiffrast, got 'opengl'"),
        ([PROMPT, "--rasteriser", "nvdiffrast"], "--rasteriser: nvdiffrast is not installed: pip install"),
        ([PROMPT, "--radius", "0.2", "0.3"], "--radius: expected cameras outside the ball of radius 0.7"),
        ([PROMPT, "--background", "blue"], "--background: expected one of random, greys, got 'blue'"),
    ],
)
def test_what_is_wrong_is_one_line(
    words: list[str], said: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words, "--out", str(tmp_path / "out")) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1 and said in found[0], found
    assert not (tmp_path / "out").exists()


def test_its_defaults_are_those_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rasterisers, "drawn_by_gpu", lambda: True)
    full = resolve({"prompt": "an owl", "model": "openai/clip-vit-base-patch32", "device": "cuda"})
    assert (full["views"], full["size"], full["texture"], full["rasteriser"]) == (25, 512, 512, "nvdiffrast")
    assert full["dtype"] == "float32" and full["cameras"]["radius"] == [5.0, 12.0]
    small = resolve({"prompt": "a red cube", "model": "primitives/judge", "device": "cpu"})
    assert (small["views"], small["background"], small["rasteriser"]) == (8, "greys", "deodr")
    assert registry.find("clip_mesh").application.name == "clip-mesh"
