"""Ray marching on the GPU, without one: the same kernels as C++, under sanitizers, against the CPU backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cuda_on_cpu import harness
from ..cuda_on_cpu.harness import CSRC
from ..cuda_on_cpu.sass import ARCHITECTURES, machine_code

SOURCES = ["march_rays/march_rays_samples.cu", "march_rays/march_rays_scan.cu", "march_rays/march_rays_cpu.cpp"]


def test_kernels_agree_with_the_cpu() -> None:
    """Missing, resting, broken and axis-parallel rays; no ray, one, two tiles; full, overflowing; cascades; cones."""
    harness.check(Path(__file__).parent / "march_rays_driver.cpp", SOURCES)


def test_no_races() -> None:
    harness.check_races(Path(__file__).parent / "march_rays_driver.cpp", SOURCES)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_machine_code(architecture: int) -> None:
    """No warnings, nothing in local memory, no atomics: the order of samples is fixed."""
    found = machine_code(CSRC / "march_rays" / "march_rays_samples.cu", architecture)
    for kernel in ("march_count", "march_write_samples"):
        variants = found.named(kernel)
        assert len(variants) == 4
        for code in variants:
            assert code.local_accesses() == 0, code.name
            assert not any(opcode.startswith(("RED", "ATOM")) for opcode in code.opcodes), code.name
    asks_bits = [code for code in found.named("march_count") if "ILb0ELb1E" in code.name or "ILb1ELb1E" in code.name]
    assert len(asks_bits) == 2
    for code in asks_bits:
        assert any(opcode.startswith("VOTE") for opcode in code.opcodes), code.name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scan_has_no_atomics(architecture: int) -> None:
    for code in machine_code(CSRC / "march_rays" / "march_rays_scan.cu", architecture).values():
        assert not any(opcode.startswith(("RED", "ATOM")) for opcode in code.opcodes), code.name
