"""Benchmarks of the operators: `pytest benchmarks`; see `benchmarks/conftest.py`."""

from __future__ import annotations

import contextlib
import os

REHEARSING = bool(os.environ.get("LDP_TEST_GPU"))
"""Whether a stand-in takes the place of a GPU (tests/standin)."""

if REHEARSING:
    from tests import standin

    standin.prepare()  # before anything here imports torch


def rehearsal() -> contextlib.AbstractContextManager[object]:
    """What runs within finds the stand-in for a GPU, where that was asked for."""
    return standin.install() if REHEARSING else contextlib.nullcontext()
