"""Compositing on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

from ..cuda_on_cpu import harness

SOURCES = ["composite/composite_fwd.cu", "composite/composite_bwd.cu", "composite/composite_cpu.cpp"]


def test_kernels_agree_with_the_cpu() -> None:
    """Partial warps, empty rays, every lane layout of channels, stops inside and between chunks, long rays, padding."""
    harness.check(Path(__file__).parent / "composite_driver.cpp", SOURCES)
