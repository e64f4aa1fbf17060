"""Every extra that is named anywhere is defined in pyproject.toml, and docs/installation.md says what each brings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import pytest

from .installation import ROOT

EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NAMED = (
    # What pip is told: ldp-fast[apps], ".[apps,dev]", "$checkout[apps]".
    re.compile(r"""(?:ldp-fast|(?<=["' ])\.|\$checkout)\[([a-z][a-z, ]*)\]"""),
    # What prose says: the extra `apps`, the extras `apps` and `dev`.
    re.compile(r"\bextras? ((?:`[a-z]+`(?:, | and )?)+)"),
)


def texts() -> Iterator[tuple[str, str]]:
    """Every file that may name an extra: this package, its tests and its pages, and what builds them."""
    single = [ROOT / name for name in ("pyproject.toml", "setup.py", "Makefile", "mkdocs.yml")]
    folders = ("ldp_fast", "kernels", "docs", "tests", "benchmarks")
    inside = [path for name in folders for end in ("*.py", "*.md") for path in (ROOT / name).rglob(end)]
    for path in (*single, *ROOT.glob("*.md"), *(ROOT / ".ci").iterdir(), *inside):
        if path != ROOT / "tests" / "packaging" / "test_extras.py":
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def named(text: str) -> set[str]:
    """The extras that a text names."""
    return {name for pattern in NAMED for found in pattern.findall(text) for name in re.findall(r"[a-z]+", found)} - {
        "and"
    }


def test_every_extra_that_is_named_is_defined() -> None:
    found = {place: names for place, text in texts() if (names := named(text))}
    assert {"pyproject.toml", "README.md", "docs/installation.md", "Makefile", ".ci/versions"} <= found.keys()
    unknown = {place: names - EXTRAS.keys() for place, names in found.items() if names - EXTRAS.keys()}
    assert not unknown


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pip install 'ldp-fast[apps]'", {"apps"}),
        ('pip install -e ".[apps,viewer,dev]"', {"apps", "viewer", "dev"}),
        ('-e "$checkout[apps,lora]"', {"apps", "lora"}),
        ("the extras `apps`, `viewer` and `mesh`, and", {"apps", "viewer", "mesh"}),
        ("an extra is missing; x.[0]; ldp-fast[{EXTRAS[module]}]", set()),
    ],
)
def test_names_are_found(text: str, names: set[str]) -> None:
    assert named(text) == names


def test_the_page_says_what_each_extra_brings() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    table = page.split("\n## Extras\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, flags=re.MULTILINE)
    said = {name: set(brings.split(", ")) for name, brings in rows}
    brings: dict[str, set[str]] = {}
    for name, requirements in EXTRAS.items():
        brings[name] = set()
        for requirement in requirements:
            package, inner = re.findall(r"^([\w-]+)(?:\[(.*?)\])?", requirement)[0]
            own = package == "ldp-fast"
            brings[name] |= {f"`{extra}`" for extra in inner.split(",")} if own else {package}
    assert len(rows) == len(said) and said.keys() == brings.keys()
    differing = {name: said[name] ^ brings[name] for name in brings if said[name] != brings[name]}
    assert not differing, f"docs/installation.md or pyproject.toml lacks {differing}"
