"""warp.h and mma.h become the instructions they promise, on every architecture, without a warning."""

from __future__ import annotations

import pytest

from tests.cuda_on_cpu.harness import HERE
from tests.cuda_on_cpu.sass import ARCHITECTURES, Kernels, machine_code
from tests.kernels.machine_code import MachineCode


def code(architecture: int) -> Kernels:
    return machine_code(HERE / "warp.cu", architecture)


def count(kernel: MachineCode, prefix: str) -> int:
    return sum(n for opcode, n in kernel.opcodes.items() if opcode.startswith(prefix))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", ["warp.cu", "planted.cu"])
def test_compiles_without_warnings(source: str, architecture: int) -> None:
    assert machine_code(HERE / source, architecture)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_atomics_are_reductions(architecture: int) -> None:
    kernel = code(architecture)["atomics_kernel"]
    assert count(kernel, "REDG.E.ADD.F32x2") == (1 if architecture >= 90 else 0)
    assert count(kernel, "REDG.E.ADD.F32x4") == (1 if architecture >= 90 else 0)
    assert count(kernel, "RED") > 3
    assert count(kernel, "ATOM") == 0, "atomics whose results are waited for, or ATOMS.CAST.SPIN"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tiles_are_tensor_core_instructions(architecture: int) -> None:
    half, tf32 = code(architecture)["mma_half_kernel"], code(architecture).named("mma_tf32_kernel")
    assert count(half, "HMMA.16816.F32") == 1
    assert sorted(count(kernel, "HMMA.1688.F32.TF32") for kernel in tf32) == [1, 3]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_in_local_memory(architecture: int) -> None:
    for name, kernel in code(architecture).items():
        assert kernel.local_accesses() == 0, name
