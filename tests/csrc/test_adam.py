"""The fused Adam on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

from ..cuda_on_cpu import harness


def test_kernels_agree_with_the_cpu() -> None:
    """Odd sizes, misaligned arrays, every combination of options."""
    harness.check(Path(__file__).parent / "adam_driver.cpp", ["adam/adam.cu", "adam/adam_cpu.cpp"])
