"""A search for the nearest true render that takes less time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.terms import nearest


@contextlib.contextmanager
def few_views(**settings: Any) -> Iterator[None]:
    """Within it the search has other settings, by their names in `benchmarks/terms/nearest.py`."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(nearest, name, value)
        nearest._grid_of.cache_clear()
        yield
    nearest._grid_of.cache_clear()
