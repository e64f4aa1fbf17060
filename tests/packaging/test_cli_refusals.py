"""What cannot work is one line, before a model is loaded or a file written; what needs no extension runs without."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import sys
import time
import types

import pytest

from ldp_fast import cli
from ldp_fast.apps import hub, options, targets
from ldp_fast.apps.text_to_3d import compiled, scene
from ldp_fast.apps.text_to_3d.mesh import command as mesh_command
from ldp_fast.apps.text_to_3d.pictures import products
from ldp_fast.errors import UsageError

from ..support import processes

pytest.importorskip("yaml", reason="the extra `apps` is not installed")
pytest.importorskip("pydantic", reason="the extra `apps` is not installed")
pytest.importorskip("diffusers", reason="the extra `apps` is not installed")

SMALL = ["--steps", "2", "--size", "8", "--views", "1", "--steps-per-ray", "16", "--device", "cpu"]


class Absent:
    """The extension's file may be there: it cannot be found."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == "ldp_fast._C":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def without_extension(run: str) -> int:
    """A run and a picture of it, in a process of its own."""
    assert "ldp_fast._C" not in sys.modules, "it was loaded by an import"
    sys.meta_path.insert(0, Absent())
    products.VIEWS = 2
    made = ["text-to-3d", "a red cube", "--method", "jacobian-nerf", "--voxels", "8", "--out", run, *SMALL]
    assert cli.main([*made, "--no-film", "--no-mesh"]) == 0
    assert cli.main(["render", run, "--frames", "1", "--channels", "opacity", "--out", run + "/mine.png"]) == 0
    return int(compiled.extension() is not None)


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("ldp-fast: error: "), said
    return said.strip()


def never(*args: object, **kwargs: object) -> None:
    raise AssertionError("a model was loaded")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options.LatentDiffusionPrior, "from_pretrained", never)


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "extension", lambda: None)
    monkeypatch.setattr(compiled._extension, "why_absent", lambda: "for a reason")


def unfinished(folder: pathlib.Path, capsys: pytest.CaptureFixture[str], *words: str) -> pathlib.Path:
    """A folder with the configuration of a run, and something in place of its checkpoint."""
    assert cli.main(["text-to-3d", "a red cube", *SMALL, *words, "--print-config"]) == 0
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(capsys.readouterr().out)
    (folder / "checkpoints" / "step-000001.safetensors").touch()
    return folder


def test_the_hash_grid_needs_the_extension(
    no_extension: None, no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run", capsys)
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    for words in (
        ["text-to-3d", "a red cube", "--out", str(tmp_path / "new"), *SMALL],
        ["text-to-3d", "--resume", str(run)],
        ["sweep", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "new"), *SMALL],
        ["render", str(run), "--out", str(tmp_path / "x.png")],
        ["export", str(run), "--out", str(tmp_path / "new")],
        ["view", str(run), "--port", "0"],
    ):
        said = error_of(words, capsys)
        assert "needs the compiled renderer, which is missing: for a reason" in said, words
        assert said.endswith("--method jacobian-nerf works without")
    (tmp_path / "prompts.txt").unlink()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_extension_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ImportError("undefined symbol: torch_something")

    monkeypatch.setattr(compiled, "extension", broken)
    said = error_of(["text-to-3d", "a red cube", "--out", str(tmp_path / "new"), *SMALL], capsys)
    assert "does not load (undefined symbol: torch_something)" in said and "--force-reinstall" in said


def test_jacobian_nerf_runs_without_it_and_render_is_recorded(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    done = processes.Started(without_extension, str(run)).wait()
    assert done.code == 0, done.err
    listed = json.loads((run / "run.json").read_text())["files"]
    assert {"mine.png", "views.png"} <= set(listed) and (run / "mine.png").exists()


def test_export_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run", capsys, "--method", "jacobian-nerf")
    first = ["config.yaml", "run.json"]
    record = {"application": "text-to-3d", "status": "finished", "versions": {"ldp-fast": "1"}, "files": first}
    (run / "run.json").write_text(json.dumps(record))
    (run / "mesh.png").write_text("somebody's own")

    def export(scene: object, folder: pathlib.Path, **options: object) -> object:
        folder.mkdir(exist_ok=True)
        for name in ("mesh.glb", "mesh.obj", "mesh.mtl", "mesh.json"):
            (folder / name).write_text("new")
        return types.SimpleNamespace(seconds=0.0)

    monkeypatch.setattr(scene, "load_scene", lambda *words: None)
    monkeypatch.setattr(mesh_command, "export_mesh", export)
    assert cli.main(["export", str(run), "--out", str(tmp_path / "elsewhere")]) == 0
    assert json.loads((run / "run.json").read_text()) == record
    assert cli.main(["export", str(run)]) == 0
    added = ["mesh.glb", "mesh.obj", "mesh.mtl", "mesh.json"]
    assert json.loads((run / "run.json").read_text())["files"] == [*first, *added]


@pytest.mark.parametrize("name", ["text-to-3d", "synthesize", "ablate"])
def test_triton_needs_a_gpu_or_its_interpreter(
    name: str, no_model: None, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    words = [name, "a red cube", "--device", "cpu", "--out", str(tmp_path / "new")]
    assert "LDP_FAST_BACKEND=triton: expected a GPU, or TRITON_INTERPRET=1" in error_of(words, capsys)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options.check_backend("cpu")


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch, free_port: int) -> str:
    """The hub is an address where nobody answers."""
    for variable in (*hub._OFFLINE, *(name for name in os.environ if name.lower().endswith("_proxy"))):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port}")
    return f"http://127.0.0.1:{free_port}"


@pytest.mark.parametrize("name", ["text-to-3d", "synthesize", "ablate"])
def test_a_hub_name_without_a_network(
    name: str, closed: str, no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = ["--method", "jacobian-nerf"] if name == "text-to-3d" else []
    began = time.monotonic()
    words = [name, "an owl", "--model", "somebody/a-model", "--out", str(tmp_path / "new"), *method, "--device", "cpu"]
    said = error_of(words, capsys)
    assert "model: 'somebody/a-model' would have to be fetched from " + closed in said and "network" in said
    assert time.monotonic() - began < 20 and not (tmp_path / "new").exists()


def test_an_address_that_answers(closed: str, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.unreachable(closed) is not None
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port))
        server.listen()
        assert hub.unreachable(closed) is None
        # A proxy stands for what lies behind it.
        monkeypatch.setenv("http_proxy", closed)
        assert hub.unreachable("http://hub.invalid") is None
    monkeypatch.setattr(hub, "SECONDS", 0.05)

    def late(*args: object, **kwargs: object) -> None:
        time.sleep(0.3)
        raise OSError("late")

    monkeypatch.setattr(hub.socket, "create_connection", late)
    assert "did not answer within" in str(hub.unreachable(closed))


def test_what_need_not_be_fetched(closed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    assert hub.reachable("model", "primitives", "model_index.json") == "primitives"
    assert hub.reachable("model", str(tmp_path), "model_index.json") == str(tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        hub.reachable("--clip", str(tmp_path / "nothing"), "config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE forbids"):
        hub.reachable("--clip", "somebody/a-clip", "config.json")


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nothing", "somebody/a-clip"])
def test_a_judge_that_does_not_exist(
    name: str, closed: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("a red cube\n")
    out = tmp_path / "new"
    images = ["sweep", str(tmp_path / "prompts.txt"), "--application", "synthesize"]
    for words in (images, ["ablate", "a red cube"]):
        said = error_of([*words, "--clip", name, "--out", str(out), "--device", "cpu", "--steps", "1"], capsys)
        assert "--clip: " in said and name in said
        assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["text-to-3d", "a red cube"],
        ["synthesize", "a red cube"],
        ["ablate", "a red cube"],
        ["render", "nowhere"],
        ["export", "nowhere"],
        ["view", "nowhere"],
        ["evaluate", "r-precision", "nowhere"],
        ["sweep", "{prompts}"],
    ],
)
def test_a_device_that_does_not_compute(
    words: list[str], no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\n")
    out = ["--out", str(tmp_path / "new")] if words[0] in ("text-to-3d", "synthesize", "ablate", "sweep") else []
    words = [word.format(prompts=prompts) for word in words]
    assert "--device: 'meta' cannot be used here" in error_of([*words, "--device", "meta", *out], capsys)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["render", "export"])
def test_a_place_that_cannot_be_written(
    name: str, no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unfinished(tmp_path / "run", capsys, "--method", "jacobian-nerf")
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "below", pathlib.Path("/proc/nowhere/below")):
        if out.parts[1] == "proc" and not pathlib.Path("/proc/self").exists():
            continue
        said = error_of([name, str(run), "--out", str(out) + (".png" if name == "render" else "")], capsys)
        assert "--out: " in said and str(out.parent if name == "render" else out.parts[-2]) in said
    if name == "export":
        said = error_of([name, str(run), "--out", str(tmp_path / "cube.obj")], capsys)
        assert "--out: expected a folder, which gets mesh.glb and mesh.obj; got" in said
    targets.check_writable(tmp_path / "new" / "deep")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "file"}


@pytest.mark.parametrize("name", ["text-to-3d", "synthesize", "ablate", "sweep"])
def test_a_run_below_a_file(
    name: str, no_model: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file" / "sub", pathlib.Path("/proc/nowhere")):
        if out.parts[1] == "proc" and not pathlib.Path("/proc/self").exists():
            continue
        what = ["--random-prompts", "1"] if name == "sweep" else ["a red cube"]
        said = error_of([name, *what, "--out", str(out), "--device", "cpu"], capsys)
        assert "--out: " in said and str(out) in said


def test_an_unfinished_run_is_not_evaluated(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = unfinished(tmp_path / "run", capsys, "--method", "jacobian-nerf")
    for metric in ("r-precision", "clip-score"):
        assert error_of(["evaluate", metric, str(run)], capsys).endswith(f"{run} is an unfinished run")
    said = error_of(["evaluate", "r-precision", str(tmp_path)], capsys)
    assert said.endswith(f"{tmp_path} does not hold a finished run (1 unfinished)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ablate", "a red cube", "--seed", "-1"], "--seed: expected a whole number of at least 0, got -1"),
        (["render", "nowhere", "--trajectory", "orbitt"], "got 'orbitt' (did you mean orbit?)"),
        (["render", "nowhere", "--channels", "depth", "normal"], "got 'normal' (did you mean normals?)"),
        (["synthesize", "a redd cube", "--device", "cpu"], "does not know 'redd' (did you mean 'red'?)"),
    ],
)
def test_values_that_do_not_exist(
    words: list[str], expected: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if words[0] == "render" else ["--out", str(tmp_path / "new")]
    assert expected in error_of([*words, *out], capsys)
    assert not (tmp_path / "new").exists()
