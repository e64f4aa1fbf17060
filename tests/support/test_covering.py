"""Fewer cases of a parametrised test, with every value or pair of values among them."""

from __future__ import annotations

import itertools
import os
import pathlib
import sys
import types
from typing import Any

import pytest

from . import covering


def held(cases: list[dict[str, int]], strength: int) -> set[Any]:
    return {part for case in cases for part in itertools.combinations(case.items(), strength)}


@pytest.mark.parametrize(("strength", "most"), [(1, 5), (2, 18)])
def test_everything_is_held_by_few_cases(strength: int, most: int) -> None:
    cases = [dict(zip("abc", values, strict=True)) for values in itertools.product(range(5), range(3), range(2))]
    found = [cases[index] for index in covering.covering(cases, strength)]
    assert held(found, strength) == held(cases, strength) and len(found) <= most < len(cases)


@pytest.mark.parametrize("strength", [1, 2])
def test_cases_that_differ_in_everything_all_stay(strength: int) -> None:
    assert covering.covering([{"a": n} for n in range(7)], strength) == list(range(7))
    assert covering.covering([{}], strength) == [0]


@pytest.mark.parametrize("outer", ["x", "y"])
@pytest.mark.parametrize(("inner", "other"), [([], 1), ([0], 2), ({}, 3)])
def test_pytest_names_the_values(request: pytest.FixtureRequest, outer: str, inner: Any, other: int) -> None:
    """Whatever the values are; parameters that are given together have one name."""
    named = covering.named(request.node)
    assert len(named) == 2 and named[1] == outer and named[0].endswith(str(other))


class Case:
    """What is asked of a collected test."""

    def __init__(self, function: str, *marks: pytest.MarkDecorator, **values: int):
        names = [str(value) for value in values.values()]
        self.nodeid = f"{function}[{'-'.join(names)}]" if names else function
        self.callspec, self.marks = types.SimpleNamespace(_idlist=names), [mark.mark for mark in marks]

    def iter_markers(self, name: str) -> list[pytest.Mark]:
        return [mark for mark in self.marks if mark.name == name]

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        return next(iter(self.iter_markers(name)), None)


def chosen(items: list[Any], strength: int) -> list[str]:
    return [item.nodeid for item in covering.chosen(items, strength)]


@pytest.mark.parametrize(("strength", "left"), [(1, 3), (2, 9)])
def test_of_those_collected_each_function_s_cases_are_chosen(strength: int, left: int) -> None:
    items = [Case("a.py::test_square", a=a, b=b) for a in range(3) for b in range(3)]
    items += [Case("b.py::test_square", a=a) for a in range(2)] + [Case("b.py::test_plain")]
    found = chosen(items, strength)
    assert len([name for name in found if name.startswith("a.py")]) == left
    assert found[left:] == ["b.py::test_square[0]", "b.py::test_square[1]", "b.py::test_plain"]


@pytest.mark.parametrize("mark", [pytest.mark.skip("no GPU"), pytest.mark.skipif(True, reason="no GPU")])
def test_a_value_counts_where_its_case_runs(mark: pytest.MarkDecorator) -> None:
    items = [Case("a.py::test", *[mark] * device, a=a, b=b, device=device) for a, b, device in numbers(3, 3, 2)]
    for strength, left in ((1, 3), (2, 9)):
        found = chosen(items, strength)
        assert len(found) == left and all(name.endswith("-0]") for name in found)
    assert len(chosen([Case("a.py::test", mark, a=a, b=b) for a, b in numbers(3, 3)], 1)) == 3


def numbers(*counts: int) -> Any:
    return itertools.product(*map(range, counts))


class Collected:
    """A plugin that keeps the names of what a run has collected."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.names = {item.nodeid for item in session.items}


def test_cases_are_chosen_of_what_is_selected(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """-k and what has passed before: of the first before, of the second after."""
    source = """
import pytest

@pytest.mark.parametrize("a", range(4))
@pytest.mark.parametrize("b", range(4))
def test_square(a, b): pass
"""
    # A name of its own, and gone afterwards: pytest runs within this process, and keeps the path of what it imports.
    name = "test_chosen_of_selected"
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / f"{name}.py").write_text(source)
    (tmp_path / "known").write_text(f"{name}.py::test_square[0-0]\n")
    options = ["--collect-only", "-q", "-p", "tests.conftest", "-p", "benchmarks.gpu.passed", "--cover=values"]
    options += ["--rootdir", str(tmp_path), "-p", "no:cacheprovider", "-p", "no:faulthandler", "-c", os.devnull]
    options += ["-k", "not 1-"]
    collected = []
    for more in ([], ["--leave-out", str(tmp_path / "known")]):
        plugin = Collected()
        try:
            assert pytest.main([str(tmp_path), *options, *more], plugins=[plugin]) == pytest.ExitCode.OK
        finally:
            sys.modules.pop(name, None)
        collected.append(plugin.names)
    every, rest = collected
    # The three values of b that are left, and the four of a.
    assert len(every) == 4 and not any("[1-" in name for name in every)
    assert rest == {name for name in every if "[0-0]" not in name} != every
