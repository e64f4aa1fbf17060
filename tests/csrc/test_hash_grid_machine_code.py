"""The hash grid's kernels become the instructions they were written for, without a warning."""

from __future__ import annotations

import pytest

from ..cuda_on_cpu.harness import CSRC
from ..cuda_on_cpu.sass import ARCHITECTURES, Kernels, machine_code
from ..kernels.machine_code import MachineCode

FILES = ("hash_grid_fwd.cu", "hash_grid_bwd.cu", "hash_grid_bwd_table.cu")


def code(file: str, architecture: int) -> Kernels:
    return machine_code(CSRC / "hash_grid" / file, architecture)


def count(kernel: MachineCode, prefix: str) -> int:
    return sum(n for opcode, n in kernel.opcodes.items() if opcode.startswith(prefix))


def instantiation(kernels: Kernels, name: str, arguments: str) -> MachineCode:
    """The kernel template with these mangled arguments, such as ILi2EfE for <2, float>."""
    (found,) = (kernel for mangled, kernel in kernels.items() if f"{len(name)}{name}{arguments}" in mangled)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("file", FILES)
def test_nothing_is_in_local_memory_and_nobody_waits_for_an_atomic(file: str, architecture: int) -> None:
    for name, kernel in code(file, architecture).items():
        assert kernel.local_accesses() == 0, name
        assert count(kernel, "ATOM") == 0, f"{name}: an atomic whose result is waited for, or ATOMS.CAST.SPIN"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("features, vector", [(2, "F32x2"), (4, "F32x4"), (8, "F32x4")])
def test_the_table_s_gradient_is_reduced_by_vectors(features: int, vector: str, architecture: int) -> None:
    kernel = instantiation(
        code("hash_grid_bwd_table.cu", architecture), "hash_grid_backward_table_kernel", f"ILi{features}EE"
    )
    wanted = 8 * max(features // 4, 1)
    assert count(kernel, f"REDG.E.ADD.{vector}") == (wanted if architecture >= 90 else 0)
    assert count(kernel, "RED") == wanted * (1 if architecture >= 90 else min(features, 4))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_deterministic_sums_are_integers_of_64_bits(architecture: int) -> None:
    kernel = instantiation(
        code("hash_grid_bwd_table.cu", architecture), "hash_grid_backward_table_fixed_kernel", "ILi2EE"
    )
    sums = [opcode for opcode in kernel.opcodes.elements() if opcode.startswith("RED")]
    assert len(sums) == 16 and all(".64" in opcode for opcode in sums), sums


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("entry, bits", [("f", 64), ("6__half", 32)])
def test_an_entry_is_one_load(entry: str, bits: int, architecture: int) -> None:
    for file, name in ((FILES[0], "hash_grid_kernel"), (FILES[1], "hash_grid_backward_positions_kernel")):
        kernel = instantiation(code(file, architecture), name, f"ILi2E{entry}E")
        others = 3 if bits == 32 else 0  # the position
        assert kernel.global_loads(bits) >= 8 + others
        wide = instantiation(code(file, architecture), name, f"ILi8E{entry}E")
        assert wide.global_loads(128) >= (16 if entry == "f" else 8)
