"""The CPU code of the operators on latents under sanitizers, with every instruction set, against loops in double."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu import harness

DRIVER = harness.ROOT / "tests" / "csrc" / "latents_driver.cpp"
SOURCES = ["latents/latents_cpu.cpp"]


@pytest.mark.parametrize("lanes", [16, 8, 4])
def test_agrees_with_loops_in_double(lanes: int) -> None:
    """16 is the widest that this processor has."""
    harness.check(DRIVER, SOURCES, environment={"LDP_FAST_LANES": str(lanes)})
