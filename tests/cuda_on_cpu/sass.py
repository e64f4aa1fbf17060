"""Compiles a .cu file with nvcc, for a GPU that need not be there, and reads the machine code of its kernels.

code = machine_code(CSRC / "hash_grid" / "hash_grid_bwd.cu", 90)
assert any(opcode.startswith("REDG.E.ADD.F32x2") for opcode in code["table_kernel"].opcodes)
"""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

from ldp_fast.env_report import find_nvcc
from tests.cuda_on_cpu.harness import CSRC, HERE
from tests.kernels.machine_code import MachineCode, disassemble
from tests.support import built

ARCHITECTURES = (80, 90, 120)


class Kernels(dict[str, MachineCode]):
    """Machine code by mangled kernel name; `code["foo_kernel"]` finds the only one that contains this identifier."""

    def __missing__(self, name: str) -> MachineCode:
        found = self.named(name)
        assert len(found) == 1, f"expected one kernel named {name}, got {sorted(self)}"
        return found[0]

    def named(self, name: str) -> list[MachineCode]:
        """All instantiations of a kernel (template), at least one."""
        found = [code for mangled, code in self.items() if f"{len(name)}{name}" in mangled]
        assert found, f"expected a kernel named {name}, got {sorted(self)}"
        return found


def nvcc_that_knows(architecture: int) -> str:
    """The path of nvcc. Skips where there is none, or one that does not know the architecture."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc in CUDA_HOME/bin or on the PATH")
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    if not re.search(rf"compute_{architecture}\b", known):
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    return nvcc


@functools.cache
def ptx(source: Path, architecture: int, flags: tuple[str, ...] = ()) -> Path:
    """Compiles as far as PTX, with the extension's flags, every warning an error; once for all who go on from there.

    Args:
        source: a .cu file.
        architecture: 80 for compute_80.
        flags: added to nvcc's.

    Returns:
        The file.
    """
    nvcc = nvcc_that_knows(architecture)
    command = [nvcc, "-ptx", "-std=c++17", "-O3", f"-arch=compute_{architecture}", "--expt-relaxed-constexpr"]
    command += ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra", "-DUSE_CUDA", "-D__CUDA_NO_HALF_OPERATORS__"]
    command += ["-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_HALF2_OPERATORS__", f"-I{CSRC / 'include'}"]
    command += [f"-I{CSRC}", f"-I{HERE}", *flags, str(source)]

    def make(to: Path) -> None:
        made = Path(f"{to}.ptx")
        done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made.replace(to)

    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    key = built.digest(version, built.headers(), source.read_bytes(), *command)
    return built.kept(f"{source.stem}.compute_{architecture}.ptx", key, make)


@functools.cache
def machine_code(source: Path, architecture: int, flags: tuple[str, ...] = ()) -> Kernels:
    """Compiles with the extension's flags, every warning an error. Skips where there is no nvcc or no disassembler.

    Args:
        source: a .cu file.
        architecture: 80 for sm_80.
        flags: added to nvcc's.
    """
    pytest.importorskip("triton", reason="the disassembler comes with Triton's wheel")
    nvcc, front = nvcc_that_knows(architecture), ptx(source, architecture, flags)
    command = [nvcc, "-cubin", f"-arch=sm_{architecture}", "-Werror=all-warnings"]

    def make(to: Path) -> None:
        # nvcc goes by the endings of what it reads and writes.
        named, cubin = to.with_suffix(".ptx"), to.with_suffix(".cubin")
        named.symlink_to(front)
        try:
            done = subprocess.run([*command, str(named), "-o", str(cubin)], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            to.write_text(disassemble(cubin.read_bytes()))
        finally:
            named.unlink()
            cubin.unlink(missing_ok=True)

    key = built.digest(front.name, *command)
    text = built.kept(f"{source.stem}.sm_{architecture}.sass", key, make).read_text()
    sections = re.split(r"^\s*\.section\s+\.text\.([^,\s]+).*$", text, flags=re.M)
    assert len(sections) > 1, f"{source.name}: no kernel in its machine code"
    # A section's text runs to the next one's head: names stand at the odd places.
    return Kernels(
        (name, MachineCode(name, architecture, text, 0))
        for name, text in zip(sections[1::2], sections[2::2], strict=True)
    )
