"""The Python of docs/generators.md runs as it stands."""

from __future__ import annotations

import pathlib
import re

import pytest

from ldp_fast.generators import load

from . import writers

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "generators.md"


def test_snippets_run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("afhqcat.pkl").write_bytes(writers.published())
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 2
    for index, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {index}", "exec"), {})
    assert load("afhqcat").resolution == 16
    mine = load("mine")
    assert mine.about == {"trained_on": "noise"} and bool(mine.w_mean.any())
    assert all(p.requires_grad for p in mine.train().requires_grad_().parameters())
