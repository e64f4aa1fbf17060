"""Folders of the layout before `ldp_fast.runs`: they go on, to the numbers that were computed then, and can be shown.

`former/` was made by the version of then: 20 steps of each application, with the checkpoint of step 10 (of synthesis in
a folder of its own, for it kept one). The embedded model has other weights since, so that its runs are refused; here
they are taken for runs of this edition. The numbers that depend on the weights were computed anew when it came: both
checkpoints of text-to-3D from the beginning (latent-nerf's step 20 once more when regularisers came to the
refinement), and step 20 of synthesis from the step 10 of then.
"""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ldp_fast import cli
from ldp_fast.apps.options import ModelConfiguration
from ldp_fast.apps.text_to_3d.scene import load_scene
from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints
from ldp_fast.runs import folder as folders

FORMER = pathlib.Path(__file__).parent / "former"
METHODS = ("latent-nerf", "jacobian-nerf")


@pytest.fixture
def first_edition(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded model's weights count as those of then."""
    monkeypatch.setattr(ModelConfiguration, "edition", 1)


def copied(name: str, to: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(FORMER / name, to / name))


def unfinished(folder: pathlib.Path) -> pathlib.Path:
    """As it was after step 10."""
    checkpoints.path_of(folder, 20).unlink()
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted", "step": 10}))
    return folder


def assert_near(found: dict[str, Tensor], then: dict[str, Tensor]) -> None:
    """Equal up to what another processor and another torch round otherwise, which ten steps of Adam make larger."""
    assert found.keys() == then.keys()
    for name, expected in then.items():
        if expected.is_floating_point() and not name.endswith(("density", "history")):
            scale = expected.abs().max().item() + 1e-6
            assert (found[name] - expected).abs().median().item() <= 2e-2 * scale, name


@pytest.mark.usefixtures("only_steps", "first_edition")
@pytest.mark.parametrize("method", METHODS)
def test_text_to_3d_goes_on_to_the_numbers_of_then(method: str, tmp_path: pathlib.Path) -> None:
    folder = unfinished(copied(method, tmp_path))
    assert cli.main(["text-to-3d", "--resume", str(folder)]) == 0
    assert_near(load_file(checkpoints.path_of(folder, 20)), load_file(checkpoints.path_of(FORMER / method, 20)))
    assert folders.application_of(folder) == "text-to-3d"


@pytest.mark.usefixtures("only_steps", "first_edition")
def test_synthesis_goes_on_to_the_numbers_of_then(tmp_path: pathlib.Path) -> None:
    folder = copied("synthesis-interrupted", tmp_path)
    assert folders.application_of(folder) == "synthesize"
    assert cli.main(["synthesize", "--resume", str(folder)]) == 0
    then = load_file(FORMER / "synthesis" / "checkpoint.safetensors")
    assert_near(load_file(checkpoints.path_of(folder, 20)), then)


@pytest.mark.usefixtures("only_steps", "first_edition")
@pytest.mark.parametrize("method", METHODS)
def test_steps_from_the_beginning_are_the_same_run(method: str, tmp_path: pathlib.Path) -> None:
    """Bit for bit: a new run of the same configuration, and the former one gone on with from its step 10 here."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(FORMER / method / "config.yaml", again)
    assert cli.main(["text-to-3d", "--resume", str(again)]) == 0
    with safe_open(str(checkpoints.path_of(FORMER / method, 20)), "pt") as file:
        then = file.metadata()
    with safe_open(str(checkpoints.path_of(again, 20)), "pt") as file:
        now = file.metadata()
    assert now["fingerprint"] == then["fingerprint"] and now.keys() == then.keys()
    found, expected = load_file(checkpoints.path_of(again, 10)), load_file(checkpoints.path_of(FORMER / method, 10))
    assert_near(found, expected)
    if torch.equal(found["history"][0], expected["history"][0]):
        # The processor and the torch of then: everything has the very bits.
        assert now["digest"] == then["digest"]


@pytest.mark.usefixtures("quick_products", "first_edition")
@pytest.mark.parametrize("method", METHODS)
def test_a_finished_one_is_rendered_and_exported(method: str, tmp_path: pathlib.Path, capsys: object) -> None:
    folder = copied(method, tmp_path)
    assert load_scene(folder).step == 20 and load_scene(folder, 10).step == 10
    (folder / "views.png").touch()
    assert cli.main(["text-to-3d", "--resume", str(folder)]) == 0  # says that it is finished
    assert cli.main(["render", str(folder), "--frames", "2", "--out", str(folder / "two.png")]) == 0
    assert cli.main(["export", str(folder), "--resolution", "24", "--texture", "64"]) == 0
    listed = folders.status(folder)["files"]
    assert "mesh.obj" in listed and "two.png" in listed and "views.png" in listed
    (folder / "notes.txt").write_text("")
    words = ["text-to-3d", "a red cube", "--method", method, "--steps", "1", "--voxels", "4"]
    words = words if method == "jacobian-nerf" else [*words[:-2], "--refinement-steps", "0"]
    assert cli.main([*words, "--out", str(folder), "--overwrite", "--no-film", "--no-mesh", "--device", "cpu"]) == 0
    assert (folder / "notes.txt").exists() and not (folder / "two.png").exists() and not (folder / "mesh.obj").exists()


@pytest.mark.usefixtures("only_steps")
def test_a_run_of_an_earlier_edition_is_refused(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its latents would be decoded by other weights, to other pictures."""
    folder = unfinished(copied("latent-nerf", tmp_path))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for words in (["text-to-3d", "--resume"], ["render", "--out", str(tmp_path / "x.png")], ["export"]):
        assert cli.main([*words, str(folder)]) == 2
        assert "or to another edition of its embedded model" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in before}
    images = copied("synthesis-interrupted", tmp_path)
    assert cli.main(["synthesize", "--resume", str(images)]) == 2
    assert "or to another edition of its embedded model" in capsys.readouterr().err
    with pytest.raises(UsageError, match="another edition"):
        load_scene(folder)
