"""docs/adopting.md: what it tells users to change is there to be changed, what it tells them to write runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .hosts import checkout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adopting.md").read_text()
DIFFS = re.findall(r"```diff\n--- (\S+)\n(.*?)```", PAGE, flags=re.DOTALL)
SNIPPETS = [s for s in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "import torch" in s]


def test_there_are_diffs_and_snippets() -> None:
    assert {path.split("/")[0] for path, _ in DIFFS} == {
        "dreamgaussian",
        "latent-nerf",
        "nerfstudio",
        "prolificdreamer",
        "stable-dreamfusion",
        "styleganfusion",
    }
    assert SNIPPETS


@pytest.mark.parametrize("index", range(len(DIFFS)), ids=lambda i: DIFFS[i][0])
def test_what_is_imported_is_there(index: int) -> None:
    lines = [line[1:].strip() for line in DIFFS[index][1].splitlines() if line.startswith("+")]
    imports = [line for line in lines if re.match(r"(from|import) ldp_fast", line)]
    assert imports
    for line in imports:
        exec(line, {})


@pytest.mark.parametrize("index", range(len(DIFFS)), ids=lambda i: DIFFS[i][0])
def test_the_host_has_the_lines(index: int) -> None:
    """In their order; and what comes of the edit is Python."""
    path, diff = DIFFS[index]
    host, _, file = path.partition("/")
    text = (checkout(host) / file).read_text()
    start = 0
    for line in diff.splitlines():
        if not line.startswith("+"):
            found = text.find(line[1:] + "\n", start)
            assert found >= 0, f"{path} has no line {line[1:]!r} after the one before"
            if line.startswith("-"):
                text = text[:found] + text[found + len(line) :]
                start = found
            else:
                start = found + len(line)
        else:
            text = text[:start] + line[1:] + "\n" + text[start:]
            start += len(line)
    compile(text, path, "exec")


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippet_runs(index: int) -> None:
    exec(compile(SNIPPETS[index], f"docs/adopting.md, snippet {index}", "exec"), {})
