"""The occupancy grid on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cuda_on_cpu import harness
from ..cuda_on_cpu.harness import CSRC
from ..cuda_on_cpu.sass import ARCHITECTURES, machine_code

SOURCES = ["occupancy/occupancy_update.cu", "occupancy/occupancy_bits.cu", "occupancy/occupancy_cpu.cpp"]


def test_kernels_agree_with_the_cpu() -> None:
    """Full and partial draws, cells drawn twice, densities that are not numbers, partial tiles of the mean."""
    harness.check(Path(__file__).parent / "occupancy_driver.cpp", SOURCES)


def test_no_races() -> None:
    harness.check_races(Path(__file__).parent / "occupancy_driver.cpp", SOURCES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: int) -> None:
    """No warnings, nothing in local memory; the maximum is an integer reduction that nobody waits for."""
    update = machine_code(CSRC / "occupancy" / "occupancy_update.cu", architecture)
    bits = machine_code(CSRC / "occupancy" / "occupancy_bits.cu", architecture)
    for code in (*update.values(), *bits.values()):
        assert code.local_accesses() == 0, code.name
    assert any(opcode.startswith("RED") and "MAX" in opcode for opcode in update["occupancy_raise"].opcodes)
    for code in bits.values():
        assert not any(opcode.startswith(("RED", "ATOM")) for opcode in code.opcodes), code.name
