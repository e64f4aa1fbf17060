"""--resume of a run that is finished: what belongs to its end and is not there is made again."""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil

import pytest

from ldp_fast.apps.run_options import resumed
from ldp_fast.errors import UsageError
from ldp_fast.runs import loop

from ..runs import toy


def resume(folder: pathlib.Path) -> bool:
    """Whether the run went on."""
    configuration = resumed(argparse.Namespace(resume=folder, given=[]), toy.APPLICATION, toy.Toy)
    return configuration is not None and loop.run(toy.APPLICATION, folder, configuration) == 0


def test_a_result_that_is_gone(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert toy.run(tmp_path, steps=4) == 0
    result, record = tmp_path / "result.txt", tmp_path / "run.json"
    before = result.read_text(), json.loads(record.read_text())
    capsys.readouterr()
    assert not resume(tmp_path) and capsys.readouterr().out == f"{tmp_path} is finished already: {result}\n"
    result.unlink()
    assert resume(tmp_path) and (result.read_text(), json.loads(record.read_text())) == before
    assert f"{tmp_path} is finished already, without result.txt: making" in capsys.readouterr().err
    result.unlink()
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UsageError, match=r"without result\.txt, and the checkpoint of its last step is missing"):
        resume(tmp_path)
    assert not result.exists()


def test_what_an_error_left_out(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def products(self: toy.Walk, folder: pathlib.Path) -> toy.Products:
        def fails() -> list[pathlib.Path]:
            raise RuntimeError("no such luck")

        return {"result": fails}

    with monkeypatch.context() as patch:
        patch.setattr(toy.Walk, "products", products)
        assert toy.run(tmp_path, steps=2) == 0
    assert not (tmp_path / "result.txt").exists()
    assert resume(tmp_path) and (tmp_path / "result.txt").exists() and not resume(tmp_path)
    assert "left_out" not in json.loads((tmp_path / "run.json").read_text())


def test_what_was_not_wanted_is_not_made(tmp_path: pathlib.Path) -> None:
    assert toy.run(tmp_path, loop.Options(without=("result",)), steps=2) == 0
    assert not resume(tmp_path) and not (tmp_path / "result.txt").exists()
