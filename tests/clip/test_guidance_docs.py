"""The Python of the page about guidance by CLIP runs as it stands, one snippet after another."""

from __future__ import annotations

import pathlib
import re
from typing import Any

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "clip_guidance.md"


def test_snippets_run() -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 4
    names: dict[str, Any] = {}
    for index, snippet in enumerate(snippets):
        exec(compile(snippet, f"{PAGE.name}, snippet {index}", "exec"), names)
    assert set(names["statistics"].terms) == {
        "composition", "direction", "screen", "structure", "sparsity", "bootstrap",
    }  # fmt: skip
