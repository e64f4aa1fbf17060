"""As few cases of a parametrised test as hold each value of its parameters, or each pair of values, once.

    python -m pytest --cover=values tests/guidance
    python -m pytest --cover=pairs tests/ops

For tests that are run again. What another version changes shows in a value (a dtype, a layout, a scheduler), what
another instruction set or an interpreter changes in two of them (a dtype at a size). All combinations are tried by the
first pass of `make test`; of a Triton kernel by a run in Triton's interpreter without `--cover`, and on a GPU.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

STRENGTHS = {"values": 1, "pairs": 2}


def covering(cases: Sequence[Mapping[Any, object]], strength: int) -> list[int]:
    """Returns which cases hold everything that is to be held at least once, in order; few, not the fewest.

    Args:
        cases: of each the values, by the parameters they are of; hashable.
        strength: 1 for each value, 2 for each pair of values that some case has.
    """
    held = [set(itertools.combinations(case.items(), min(strength, len(case)))) for case in cases]
    unseen, found = set().union(*held), list[int]()
    while unseen:
        best = max(range(len(cases)), key=lambda index: len(unseen & held[index]))
        unseen -= held[best]
        found.append(best)
    return sorted(found)


def named(test: pytest.Item) -> dict[int, str]:
    """Returns the value, by its name, of each `parametrize` of a test, counted from the innermost."""
    # Not public, and the only place where pytest keeps them apart; test_covering.py tells when it is gone.
    return dict(enumerate(getattr(getattr(test, "callspec", None), "_idlist", ())))


def skips(test: pytest.Item) -> bool:
    """Whether a mark says that a test is skipped here; what a test finds out by itself is not known."""
    conditions = [mark.args[0] for mark in test.iter_markers("skipif") if mark.args]
    return test.get_closest_marker("skip") is not None or any(c for c in conditions if not isinstance(c, str))


def chosen(items: Sequence[pytest.Item], strength: int) -> list[pytest.Item]:
    """Returns the tests that are left of those that were collected, in their order.

    A case that is skipped here holds nothing; it is left only where all cases of its test are skipped.
    """
    functions = defaultdict[str, list[pytest.Item]](list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    kept = set[str]()
    for every in functions.values():
        cases = [case for case in every if not skips(case)] or every
        kept |= {cases[index].nodeid for index in covering([named(case) for case in cases], strength)}
    return [item for item in items if item.nodeid in kept]
