"""The Python of README and of the pages on decoder and renderer is run as it stands; what pages link to exists."""

from __future__ import annotations

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = ("README.md", "docs/decoder.md", "docs/renderer.md")
SNIPPETS = [
    (page, snippet)
    for page in PAGES
    for snippet in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
]


def test_there_are_snippets() -> None:
    assert {page for page, _ in SNIPPETS} == set(PAGES) and len(SNIPPETS) >= 4


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippet_runs(index: int) -> None:
    page, snippet = SNIPPETS[index]
    exec(compile(snippet, f"{page}, snippet {index}", "exec"), {})


@pytest.mark.parametrize("page", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith(("http://", "https://")):
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_the_two_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for command in ("make demo", "make test"):
        assert command in README
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)
