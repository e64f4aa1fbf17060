"""Compositing on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cuda_on_cpu import harness
from ..cuda_on_cpu.harness import CSRC
from ..cuda_on_cpu.sass import ARCHITECTURES, machine_code

SOURCES = ["composite/composite_fwd.cu", "composite/composite_bwd.cu", "composite/composite_cpu.cpp"]


def test_kernels_agree_with_the_cpu() -> None:
    """Partial warps, empty rays, every lane layout of channels, stops inside and between chunks, long rays, padding."""
    harness.check(Path(__file__).parent / "composite_driver.cpp", SOURCES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: int) -> None:
    """No warnings, nothing in local memory, no atomics: sums have a fixed order."""
    for source, kernel, variants in (("fwd", "composite_kernel", 7), ("bwd", "composite_backward_kernel", 14)):
        found = machine_code(CSRC / "composite" / f"composite_{source}.cu", architecture).named(kernel)
        assert len(found) == variants
        for code in found:
            assert code.local_accesses() == 0, code.name
            assert not any(opcode.startswith(("RED", "ATOM")) for opcode in code.opcodes), code.name
            assert any(opcode.startswith("SHFL") for opcode in code.opcodes), code.name
