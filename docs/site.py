"""What makes a site of docs/ and the docstrings, beside mkdocs.yml: hooks of mkdocs and an extension of Griffe.

Pages that a reader of the repository looks for outside of docs/ become pages of the site, and links follow them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "ldp_fast/zoo/primitives/README.md": "model_card.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
SHARED = re.compile(r"^( +)((?:\*{0,2}\w+, )+\*{0,2}\w+): (.*(?:\n\1 +.*)*)", flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages from outside of docs/."""
    for source, name in ELSEWHERE.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns links between pages that lie elsewhere in the repository; one to a source file becomes its text."""
    return turned(markdown, page.file.src_uri)


def turned(markdown: str, name: str) -> str:
    """The text of the page `name` of the site, with the links that lead to the same on the site.

    Links that lead nowhere in the repository stay as they are, so that mkdocs finds them.
    """
    source = next((source for source, page in ELSEWHERE.items() if page == name), f"docs/{name}")

    def turn(match: re.Match[str]) -> str:
        text, target, anchor = match.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        page = ELSEWHERE.get(path, path.removeprefix("docs/"))
        if path in ELSEWHERE or (path.startswith("docs/") and (ROOT / path).is_file()):
            return f"[{text}]({posixpath.relpath(page, posixpath.dirname(name) or '.')}{anchor})"
        return text if (ROOT / path).is_file() else match[0]

    return LINK.sub(turn, markdown)


class SharedDescriptions(griffe.Extension):
    """Arguments described together, `near, far: …`, are described one by one, as Griffe wants them."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = one_by_one(obj.docstring.value)


def one_by_one(docstring: str) -> str:
    """A docstring in which `    near, far: text` stands as `    near: text` and `    far: text`."""

    def split(match: re.Match[str]) -> str:
        return "\n".join(f"{match[1]}{name}: {match[3]}" for name in match[2].split(", "))

    return SHARED.sub(split, docstring)
