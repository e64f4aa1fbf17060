"""The hash grid's kernels, run on the CPU under sanitizers and in every order, against its CPU functions."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cuda_on_cpu import harness

DRIVER = Path(__file__).parent / "hash_grid_driver.cpp"
ROOM = Path("hash_grid")
SOURCES = [
    ROOM / name
    for name in (
        "hash_grid_fwd.cu",
        "hash_grid_bwd.cu",
        "hash_grid_bwd_table.cu",
        "hash_grid_cpu.cpp",
        "hash_grid_bwd_cpu.cpp",
    )
]


@pytest.mark.parametrize("case", ["kinds", "sizes", "features", "misaligned", "half_shadow", "magnitudes"])
def test_kernels_agree_with_the_cpu(case: str) -> None:
    harness.check(DRIVER, SOURCES, case)


@pytest.mark.parametrize("case", ["sizes", "features"])
def test_no_two_threads_write_without_atomics(case: str) -> None:
    harness.check_races(DRIVER, SOURCES, case)
