"""Fewer cases of a parametrised test, with every value or pair of values among them."""

from __future__ import annotations

import itertools
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


@pytest.mark.parametrize(("strength", "left"), [(1, 3), (2, 9)])
def test_of_those_collected_each_function_s_cases_are_chosen(strength: int, left: int) -> None:
    def case(function: str, **values: int) -> Any:
        names = [str(value) for value in values.values()]
        callspec = types.SimpleNamespace(_idlist=names)
        return types.SimpleNamespace(nodeid=f"{function}[{'-'.join(names)}]", callspec=callspec)

    items = [case("a.py::test_square", a=a, b=b) for a in range(3) for b in range(3)]
    items += [case("b.py::test_square", a=a) for a in range(2)] + [types.SimpleNamespace(nodeid="b.py::test_plain")]
    found = [item.nodeid for item in covering.chosen(items, strength)]
    assert len([name for name in found if name.startswith("a.py")]) == left
    assert found[left:] == ["b.py::test_square[0]", "b.py::test_square[1]", "b.py::test_plain"]
