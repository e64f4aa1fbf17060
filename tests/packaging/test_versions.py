"""The versions that are said to be supported are those that `.ci/versions` runs; every extra can be had."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Not installed by .ci/versions: what serves 3D results to a browser.
NOT_RUN = {"viser"}
# What the support is about; docs/installation.md has a row for each.
NAMED = {"torch": "PyTorch", "triton": "Triton", "transformers": "transformers", "diffusers": "diffusers"}


def requirements() -> Iterator[str]:
    yield from PROJECT["build-system"]["requires"]
    yield from PROJECT["project"]["dependencies"]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        yield from extra


def constraints(name: str) -> dict[str, str]:
    """The exact versions of a file of `.ci`, by package."""
    lines = (ROOT / ".ci" / f"{name}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def release(version: str) -> tuple[int, ...]:
    """2.10.0 is 2.10."""
    numbers = [int(number) for number in version.split("+")[0].split(".")]
    while numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def test_the_oldest_are_the_lower_bounds() -> None:
    bounds: dict[str, set[tuple[int, ...]]] = {}
    for requirement in requirements():
        found = re.match(r"([a-z0-9_-]+)(?:>=([0-9.]+))?", requirement)
        assert found is not None and not re.search(r"[<~!]|==", requirement.split(";")[0]), requirement
        if found[2]:
            bounds.setdefault(found[1], set()).add(release(found[2]))
    assert bounds.keys() >= NAMED.keys()
    oldest = constraints("oldest")
    # setuptools 77.0.0 was withdrawn.
    assert {name: {release(version)} for name, version in oldest.items()} | {"setuptools": {(77,)}} == {
        name: bound for name, bound in bounds.items() if name not in NOT_RUN
    }


def test_the_newest_are_newer() -> None:
    oldest, newest = constraints("oldest"), constraints("newest")
    assert newest.keys() == oldest.keys() - {"pytest", "setuptools"}
    assert all(release(newest[name]) > release(oldest[name]) for name in newest)


def test_the_page_names_them() -> None:
    page = (ROOT / "docs" / "installation.md").read_text()
    oldest, newest = constraints("oldest"), constraints("newest")
    for name, title in NAMED.items():
        assert f"| {title} | {oldest[name]} | {newest[name]} |" in page


def test_extras_name_extras_that_exist() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = [name for r in requirements() for part in re.findall(r"ldp-fast\[(.*?)\]", r) for name in part.split(",")]
    assert named and set(named) <= extras.keys()
    (everything,) = extras["all"]
    reached = set(re.findall(r"\w+", everything.split("[")[1]))
    assert reached | {"all", "diffusers"} == extras.keys()


@pytest.mark.skipif("LDP_TEST_VERSIONS" not in os.environ, reason="needs an environment of .ci/versions")
def test_this_environment_has_what_it_is_for() -> None:
    wanted = constraints(os.environ["LDP_TEST_VERSIONS"])
    assert {name: importlib.metadata.version(name) for name in wanted} == wanted
