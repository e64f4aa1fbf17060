"""One name, the same in every layer: what is tested, measured and compiled is found under its operator's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from .installation import ROOT

TESTS = ROOT / "tests"
ROOMS = sorted(path.name for path in (ROOT / "csrc").iterdir() if path.is_dir() and path.name != "include")
OPERATORS = sorted(path.stem for path in (ROOT / "ldp_fast" / "ops").glob("[!_]*.py"))
# Operators whose C++ lies in one room, as their Python does in `ops/_latents.py`; occupancy is three operators.
TOGETHER = {"latents"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_csrc_is_named_as_its_operator(room: str) -> None:
    assert room in {*OPERATORS, *TOGETHER}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_csrc_has_its_test_and_its_driver(room: str) -> None:
    for name in (f"test_{room}.py", f"{room}_driver.cpp"):
        assert (TESTS / "csrc" / name).is_file(), f"tests/csrc/{name} is missing"


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_has_its_definition_test_and_benchmark(operator: str) -> None:
    for path in (
        ROOT / "ldp_fast" / "reference" / f"{operator}.py",
        TESTS / "ops" / f"test_{operator}.py",
        ROOT / "benchmarks" / f"bench_{operator}.py",
    ):
        assert path.is_file(), f"{path.relative_to(ROOT)} is missing"


def test_tests_lie_in_the_folder_that_they_mirror() -> None:
    assert [path.name for path in TESTS.glob("test_*.py")] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "kernels" / "ldp_kernels").glob("[!_]*.py")), ids=lambda path: path.stem
)
def test_kernels_are_named_as_their_operators(path: Path) -> None:
    assert path.stem in OPERATORS or path.stem == "group_norm_moments"
