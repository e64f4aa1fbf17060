"""The fused Adam on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cuda_on_cpu import harness
from ..cuda_on_cpu.harness import CSRC
from ..cuda_on_cpu.sass import ARCHITECTURES, machine_code


def test_kernels_agree_with_the_cpu() -> None:
    """Odd sizes, misaligned arrays, every combination of options."""
    harness.check(
        Path(__file__).parent / "fused_adam_driver.cpp", ["fused_adam/fused_adam.cu", "fused_adam/fused_adam_cpu.cpp"]
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: int) -> None:
    """No warnings, nothing in local memory; four elements are read and written at once."""
    for code in machine_code(CSRC / "fused_adam" / "fused_adam.cu", architecture).named("adam_kernel"):
        assert code.local_accesses() == 0, code.name
        wide, loads = "ILb1E" in code.name, code.global_loads(128)
        # Four arrays each way, in a loop that the compiler may unroll.
        assert (loads > 0) == wide and loads % 4 == 0, code.opcodes
        assert code.global_stores(128) >= loads, code.opcodes
