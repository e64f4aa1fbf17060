"""Runs of text-to-3D that stop, and go on exactly; that end, and say so."""

from __future__ import annotations

import json
import os
import pathlib
import signal

import pytest
import torch

from ldp_fast.apps.text_to_3d.scene import load_scene, read_configuration
from ldp_fast.runs import checkpoints

from ..support import processes
from . import text_to_3d_runs as runs

FLAGS = ("abc", "--method", "jacobian-nerf", "--steps", 8, "--size", 8, "--steps-per-ray", 16, "--voxels", 6)
MORE = ("--guidance-scale", 3, "--checkpoint-every", 3, "--levels", "up0", "--device", "cpu")


def jacobian_flags(model: str, out: pathlib.Path) -> tuple[object, ...]:
    return (*FLAGS, *MORE, "--model", model, "--out", out)


@pytest.fixture(scope="module")
def whole(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A run of each method that nothing interrupted: latent-nerf has 8 steps and 4 of the refinement."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        runs.without_pictures(patch)
        assert runs.command(*jacobian_flags(small_model, root / "jacobian-nerf")) == 0
        runs.prepared(root / "latent-nerf", runs.configuration(small_model))
        assert runs.command("--resume", root / "latent-nerf") == 0
    return {method: root / method for method in runs.METHODS}


def test_what_a_run_leaves(whole: dict[str, pathlib.Path]) -> None:
    assert checkpoints.steps(whole["latent-nerf"]) == [4, 8, 12]
    assert checkpoints.steps(whole["jacobian-nerf"]) == [3, 6, 8]
    for method, folder in whole.items():
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished" and record["step"] == record["steps"] == (12, 8)[method[0] == "j"]
        assert record["versions"]["torch"] == torch.__version__ and record["seconds_per_step"] > 0
        assert read_configuration(folder).method == method
        assert not list(folder.rglob(".*.part"))
        scene = load_scene(folder)
        assert scene.step == record["step"] and scene.refined == (method == "latent-nerf")
        tensors = runs.newest(folder)
        assert tensors["history"].shape[0] == record["step"] and torch.isfinite(tensors["history"]).all()


@pytest.mark.parametrize("step", [2, 8, 10], ids=["latents", "border", "refinement"])
@pytest.mark.usefixtures("only_steps")
def test_latent_nerf_goes_on_exactly_after_ctrl_c(
    whole: dict[str, pathlib.Path], small_model: str, tmp_path: pathlib.Path, step: int, capsys: pytest.CaptureFixture
) -> None:
    folder = runs.prepared(tmp_path / "run", runs.configuration(small_model))
    # Before the step: the handler lets it be done first.
    with runs.before_step(step - 1, lambda _: os.kill(os.getpid(), signal.SIGINT)):
        assert runs.command("--resume", folder) == 130
    assert (
        f"interrupted at step {step}; continue with: ldp-fast text-to-3d --resume {folder}" in capsys.readouterr().err
    )
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["step"]) == ("interrupted", step) and step in checkpoints.steps(folder)
    assert runs.command("--resume", folder) == 0
    assert f"continuing {folder} at step {step} of 12" in capsys.readouterr().err
    runs.assert_same(runs.newest(folder), runs.newest(whole["latent-nerf"]))


@pytest.mark.usefixtures("only_steps")
def test_jacobian_nerf_goes_on_exactly_after_ctrl_c_in_a_process_of_its_own(
    whole: dict[str, pathlib.Path], small_model: str, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    flags = jacobian_flags(small_model, folder)
    stopped = processes.Started(runs.signalled, signal.SIGINT, 5, torch.get_num_threads(), *flags).wait()
    assert stopped.code == 130, stopped.err
    assert "Traceback" not in stopped.err
    assert stopped.err.rstrip().endswith(f"continue with: ldp-fast text-to-3d --resume {folder}")
    assert checkpoints.steps(folder) == [3, 5]
    assert runs.command("--resume", folder) == 0
    runs.assert_same(runs.newest(folder), runs.newest(whole["jacobian-nerf"]))


@pytest.mark.usefixtures("only_steps")
def test_a_finished_run_says_so(whole: dict[str, pathlib.Path], capsys: pytest.CaptureFixture) -> None:
    folder = whole["jacobian-nerf"]
    with runs.before_step(8, lambda _: pytest.fail("a step was done")):
        assert runs.command("--resume", folder) == 0
    assert f"{folder} is finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--steps", 20), "--steps"),
        (("--method", "latent-nerf", "--lambda-fm", 0.5), "--lambda-fm"),
        (("--overwrite",), "--overwrite"),
        (("--views", 2, "--seed", 4), "--seed, --views"),
        (("--out", "elsewhere"), "--resume"),
        (("xyz",), "--resume"),
    ],
)
def test_resuming_changes_nothing(
    whole: dict[str, pathlib.Path], words: tuple[object, ...], named: str, capsys: pytest.CaptureFixture
) -> None:
    before = (whole["jacobian-nerf"] / "config.yaml").read_bytes()
    assert runs.command(*words, "--resume", whole["jacobian-nerf"]) == 2
    said = capsys.readouterr().err
    assert all(name in said for name in named.split(", ")) and len(said.splitlines()) == 1
    assert (whole["jacobian-nerf"] / "config.yaml").read_bytes() == before


@pytest.mark.usefixtures("only_steps")
def test_the_seed_decides(whole: dict[str, pathlib.Path], small_model: str, tmp_path: pathlib.Path) -> None:
    torch.manual_seed(99)  # the global state must not matter
    assert runs.command(*jacobian_flags(small_model, tmp_path / "again")) == 0
    assert runs.command(*jacobian_flags(small_model, tmp_path / "other"), "--seed", 1) == 0
    runs.assert_same(runs.newest(tmp_path / "again"), runs.newest(whole["jacobian-nerf"]))
    other, first = runs.newest(tmp_path / "other"), runs.newest(whole["jacobian-nerf"])
    assert other.keys() == first.keys()
    grids = [name for name in first if name.startswith("scene.") and first[name].numel() > 100]
    assert grids and all(not torch.equal(other[name], first[name]) for name in grids)


def test_what_may_be_said_anew(small_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    folder = runs.prepared(tmp_path / "run", runs.configuration(small_model, "jacobian-nerf", steps=4))
    for flags, said in (
        (("--keep", "0"), "--keep: expected a whole number of at least 1, got 0"),
        (("--checkpoint-every", "0"), "--checkpoint-every: expected a whole number of at least 1, got 0"),
        (("--device", "meta"), "--device: 'meta' cannot be used here"),
        (("--steps", "9"), "it cannot change --steps"),
    ):
        assert runs.command("--resume", folder, *flags) == 2
        assert said in capsys.readouterr().err
    with pytest.MonkeyPatch.context() as patch:
        runs.without_pictures(patch)
        assert runs.command("--resume", folder, "--checkpoint-every", "1", "--keep", "2", "--device", "cpu") == 0
    assert checkpoints.steps(folder) == [3, 4]
    assert read_configuration(folder) == runs.configuration(small_model, "jacobian-nerf", steps=4)
