"""A look at a run that cannot be had: the run goes on, and all that it computes is kept."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import torch

from ldp_fast.runs import checkpoints, image_files, loop

from . import toy


@pytest.mark.parametrize("what", ["picture", "file"])
@pytest.mark.parametrize("preview", [1, None])
def test_a_preview_that_fails_does_not_end_a_run(
    what: str,
    preview: int | None,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lacks(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    if what == "picture":
        monkeypatch.setattr(toy.Walk, "preview", lacks)
    else:
        monkeypatch.setattr(image_files, "save_png", lacks)
    assert toy.run(tmp_path, loop.Options(preview=preview), steps=5) == 0
    assert checkpoints.steps(tmp_path)[-1] == 5 and (tmp_path / "result.txt").exists()
    told = [line for line in re.split(r"[\r\n]", capsys.readouterr().err) if "left out" in line]
    seen = what == "picture" or preview is not None
    at = 1 if preview else 2
    assert told == ([f"preview: left out at step {at}: CUDA out of memory. Tried to allocate 9 GiB"] if seen else [])


def test_an_interruption_of_a_preview_is_one_of_the_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: toy.Walk) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(toy.Walk, "preview", interrupted)
    assert toy.run(tmp_path, steps=5) == 130
