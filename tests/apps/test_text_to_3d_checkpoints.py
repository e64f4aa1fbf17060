"""Damaged and foreign checkpoints, full disks and runs that diverge: a clear line, and nothing that was is lost."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
from typing import Any

import pytest
import torch

from ldp_fast.apps.text_to_3d.scene import load_scene, read_configuration
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints
from ldp_fast.runs.configuration import write

from . import text_to_3d_runs as runs

pytestmark = pytest.mark.usefixtures("only_steps")


@pytest.fixture(scope="module")
def finished(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of six steps with a checkpoint every two; tests work on copies."""
    given = runs.configuration(small_model, "jacobian-nerf", steps=6, checkpoint_every=2)
    folder = runs.prepared(tmp_path_factory.mktemp("finished") / "run", given)
    with pytest.MonkeyPatch.context() as patch:
        runs.without_pictures(patch)
        assert runs.command("--resume", folder) == 0
    return folder


@pytest.fixture
def folder(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The same as killed after its last checkpoint."""
    copied = pathlib.Path(shutil.copytree(finished, tmp_path / "run"))
    (copied / "run.json").unlink()
    return copied


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """All files but the log, which every start adds to."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "log")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def error(capsys: pytest.CaptureFixture) -> str:
    """The one line of an error; progress and what else is said stands before it."""
    said = capsys.readouterr().err
    assert "Traceback" not in said and said.count("ldp-fast: error: ") == 1
    line = said[said.index("ldp-fast: error: ") :]
    assert line.count("\n") == 1
    return line


def test_a_damaged_checkpoint(folder: pathlib.Path, finished: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """One kind of damage; every kind is tried on the loop that all applications share (tests/runs/test_loop.py)."""
    path = checkpoints.path_of(folder, 6)
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    before = contents(folder)
    assert runs.command("--resume", folder) == 2
    assert f"{path} is damaged (" in (said := error(capsys)) and "delete it to go on from the one before it" in said
    assert contents(folder) == before
    with pytest.raises(UsageError, match="is damaged"):
        load_scene(folder)
    path.unlink()
    assert runs.command("--resume", folder) == 0
    assert f"continuing {folder} at step 4 of 6" in capsys.readouterr().err
    runs.assert_same(runs.newest(folder), runs.newest(finished))


def test_a_checkpoint_of_another_configuration(
    folder: pathlib.Path, small_model: str, capsys: pytest.CaptureFixture
) -> None:
    write(folder, runs.changed(read_configuration(folder), seed=77))
    before = contents(folder)
    assert runs.command("--resume", folder) == 2
    assert f"{checkpoints.path_of(folder, 6)} belongs to another configuration than {folder}" in error(capsys)
    assert contents(folder) == before


def test_a_checkpoint_whose_tensors_do_not_fit(folder: pathlib.Path) -> None:
    from safetensors.torch import save_file

    configuration = read_configuration(folder)
    path = checkpoints.path_of(folder, 6)
    tensors, metadata = checkpoints.read(path, configuration.fingerprint())
    name = next(name for name, x in tensors.items() if name.startswith("scene.") and x.dim() > 1)
    tensors[name] = tensors[name].flatten()
    save_file(tensors, path, {**metadata, "digest": checkpoints.digest(tensors)})
    trainer = runs.trainer(configuration)
    before = {key: x.clone() for key, x in trainer.scene.state_dict().items()}
    with pytest.raises(ValueError, match="its tensors are not those of this configuration's field"):
        runs.load(trainer, path)
    runs.assert_same(trainer.scene.state_dict(), before)
    assert trainer.step == 0


def test_what_a_checkpoint_restores(folder: pathlib.Path) -> None:
    trainer = runs.trainer(read_configuration(folder))
    runs.load(trainer, checkpoints.path_of(folder, 4))
    assert trainer.step == 4 and trainer.history.shape[0] == 4
    runs.save(trainer, folder / "again.safetensors")
    from safetensors.torch import load_file

    runs.assert_same(load_file(folder / "again.safetensors"), load_file(checkpoints.path_of(folder, 4)))
    scene = load_scene(folder, 2)
    assert scene.step == 2
    with pytest.raises(UsageError, match=r"--checkpoint: expected one of 2, 4, 6, which .* has; got 3"):
        load_scene(folder, 3)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(UsageError, match="has no checkpoint yet"):
        load_scene(folder)


def test_a_disk_that_is_full_from_the_start(
    small_model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def no_room(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    out = tmp_path / "run"
    words = ("abc", "--method", "jacobian-nerf", "--model", small_model, "--voxels", 6, "--levels", "up0")
    assert runs.command(*words, "--out", out) == 2
    assert error(capsys).strip() == f"ldp-fast: error: no space left on device: {out / 'config.yaml'}"
    assert not out.exists()


def test_overwriting_leaves_what_is_not_the_runs(
    folder: pathlib.Path, small_model: str, capsys: pytest.CaptureFixture
) -> None:
    ours = ("views.png", "turntable.mp4", "mesh.glb", "orbit-256.mp4", "run.json")
    mine = ("notes.txt", "checkpoints/mine.bin", "picture.png")
    for name in (*ours, *mine):
        (folder / name).write_text("old")
    old = read_configuration(folder)
    words = ("abc", "--method", "jacobian-nerf", "--model", small_model, "--voxels", 5, "--levels", "up0", "--steps", 2)
    flags = (*words, "--size", 8, "--steps-per-ray", 16, "--out", folder)
    # One that cannot start takes nothing away.
    before = contents(folder)
    assert runs.command(*flags, "--overwrite", "--device", "tpu") == 2
    assert "device: 'tpu'" in error(capsys) and contents(folder) == before
    assert runs.command(*flags, "--overwrite") == 0
    assert checkpoints.steps(folder) == [2] and read_configuration(folder) != old
    assert all((folder / name).read_text() == "old" for name in mine)
    assert [name for name in ours if (folder / name).exists()] == ["run.json"]


def test_a_run_that_diverges(small_model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    given = runs.configuration(small_model, "jacobian-nerf", steps=6, checkpoint_every=2)
    folder = runs.prepared(tmp_path / "run", given)
    with runs.before_step(3, runs.diverge):
        assert runs.command("--resume", folder) == 2
    said = error(capsys)
    assert f"{folder} diverged before step 4: " in said and "gradient_norm" in said and "not finite" in said
    assert checkpoints.steps(folder) == [2]
    assert all(torch.isfinite(x).all() for x in runs.newest(folder).values() if x.is_floating_point())
