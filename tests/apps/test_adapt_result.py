"""The generator is what a run of adapt is for: without it a run is not finished, and it can be made again."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import pytest

from ldp_fast.apps.adapt import products
from ldp_fast.cli import main
from ldp_fast.generators import load

from . import adapt_stub as stub

WORDS = (stub.PROMPT, "--device", "cpu", "--steps", "2", "--samples", "0", "--no-film", "--source-prompt", "a cube")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a model; the generator alone is made at the end."""
    of = products.of
    stub.guided_by_red(monkeypatch)
    monkeypatch.setattr(products, "of", lambda experiment, folder: {"generator": of(experiment, folder)["generator"]})


@pytest.fixture
def words(tmp_path: pathlib.Path) -> tuple[str, ...]:
    return (*WORDS, "--generator", stub.saved(tmp_path / "generator"), "--out", str(tmp_path / "run"))


def status(folder: pathlib.Path) -> Any:
    return json.loads((folder / "run.json").read_text())["status"]


def generate(folder: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["generate", str(folder), "--count", "1", "--out", str(folder.parent / "pictures")]) == 2
    return capsys.readouterr().err


def test_a_disk_that_is_full_at_the_end(
    words: tuple[str, ...], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(products, "save", full)
        assert main(["adapt", *words]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "lacks its result (generator: [Errno 28] No space left on device); the checkpoint of step 2 is there" in line
    assert line.endswith(f"make the rest with: ldp-fast adapt --resume {folder}") and status(folder) == "interrupted"
    assert f"continue it with ldp-fast adapt --resume {folder}" in generate(folder, capsys)
    assert main(["adapt", "--resume", str(folder)]) == 0
    assert status(folder) == "finished" and load(folder / "generator").about["adapted"]


def test_a_generator_that_was_removed_is_made_again(
    words: tuple[str, ...], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert main(["adapt", *words]) == 0
    whole = (folder / "generator" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "generator")
    assert f"whose generator is gone: make it again with ldp-fast adapt --resume {folder}" in generate(folder, capsys)
    assert main(["adapt", "--resume", str(folder)]) == 0
    assert (folder / "generator" / "model.safetensors").read_bytes() == whole
    assert main(["adapt", "--resume", str(folder)]) == 0
    assert "is finished already" in capsys.readouterr().out


def test_a_run_that_diverged_is_not_to_be_continued(
    words: tuple[str, ...], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gradient = stub.Red.gradient

    def broken(self: stub.Red, *arguments: Any) -> Any:
        found, values = gradient(self, *arguments)
        return found * float("nan"), values

    monkeypatch.setattr(stub.Red, "gradient", broken)
    assert main(["adapt", *words]) == 2 and status(tmp_path / "run") == "diverged"
    said = generate(tmp_path / "run", capsys)
    assert "diverged before it had a generator: begin anew with another --out" in said and "--resume" not in said


@pytest.mark.parametrize("said", ["by hand", ["twice"], 3, None, {"root": 7, "from": []}])
def test_whatever_a_generator_says_of_its_past_it_can_be_adapted(
    said: object, words: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    given = stub.tiny()
    given.about["adapted"] = said
    stub.save(tmp_path / "generator", given)
    assert main(["adapt", *words]) == 0
    found: Any = load(tmp_path / "run" / "generator").about["adapted"]
    assert found["prompt"] == stub.PROMPT and "root" not in found
