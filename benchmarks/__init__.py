"""Benchmarks of the operators: `pytest benchmarks`; see `benchmarks/conftest.py`.

`LDP_TEST_INSTRUCTIONS=avx2 make bench` measures torch and this package as on a processor without AVX-512
(tests/support/instruction_sets.py), as rows of a machine of its own. `LDP_TEST_GPU=cpu` rehearses a GPU's part.
"""

from __future__ import annotations

import contextlib
import os

from tests.support import instruction_sets

REHEARSING = bool(os.environ.get("LDP_TEST_GPU"))
"""Whether a stand-in takes the place of a GPU (tests/standin)."""

# Both before anything here imports torch: it and the extension read what is pretended when they are loaded.
instruction_sets.pretend()
if REHEARSING:
    from tests import standin

    standin.prepare()


def rehearsal() -> contextlib.AbstractContextManager[object]:
    """What runs within finds the stand-in for a GPU, where that was asked for."""
    return standin.install() if REHEARSING else contextlib.nullcontext()
