"""What a run is for is made, or the run is not finished."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

from ldp_fast.errors import UsageError
from ldp_fast.runs import loop

from . import toy

APPLICATION = dataclasses.replace(toy.APPLICATION, essential={"result": "result.txt"})


def run(folder: pathlib.Path, **options: Any) -> int:
    return loop.run(APPLICATION, folder, toy.Toy(), loop.Options(**options))


def test_a_run_without_its_result_is_not_finished_and_goes_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = toy.Walk.products

    def products(self: toy.Walk, folder: pathlib.Path) -> Any:
        def full() -> list[pathlib.Path]:
            raise OSError(28, "No space left on device", "result.txt")

        def film() -> list[pathlib.Path]:
            (folder / "film.txt").touch()
            return [folder / "film.txt"]

        return {"result": full, "film": film}

    with monkeypatch.context() as patch:
        patch.setattr(toy.Walk, "products", products)
        with pytest.raises(UsageError, match=r"lacks its result \(result: .*No space left") as caught:
            run(tmp_path)
        said = str(caught.value)
        assert said.endswith(f"make the rest with: ldp-fast toy --resume {tmp_path}") and "step 8 is there" in said
        record = json.loads((tmp_path / "run.json").read_text())
        assert record["status"] == "interrupted" and "film.txt" in record["files"] and "result" in record["left_out"]
        assert "left out" not in capsys.readouterr().err
        assert run(tmp_path, without=("result",)) == 0, "who does not want it has all"
        with pytest.raises(UsageError):
            run(tmp_path)
    assert toy.Walk.products is original and run(tmp_path) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["status"] == "finished" and "left_out" not in record and (tmp_path / "result.txt").exists()
