"""The microbenchmarks compile without a GPU, and measure something on one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks import microbenchmarks

from ..cuda_on_cpu.sass import find_nvcc, machine_code


@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_the_kernels_are_what_they_measure(architecture: int) -> None:
    kernels = machine_code(microbenchmarks.SOURCE, architecture)
    pairs = [opcode for opcode in kernels["scatter_kernel"].opcodes.elements() if opcode.startswith("RED")]
    assert len(pairs) == (8 if architecture >= 90 else 16)
    assert architecture < 90 or all(opcode.startswith("REDG.E.ADD.F32x2") for opcode in pairs)
    assert kernels["gather_kernel"].global_loads(64) == 8
    assert kernels["copy_kernel"].global_loads(128) >= 1


def test_the_library_builds(tmp_path: Path) -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc")
    built = tmp_path / "microbenchmarks.so"
    flags = ("-shared", "-Xcompiler=-fPIC", "-Werror=all-warnings")
    done = subprocess.run(microbenchmarks.command(nvcc, built, "sm_80", *flags), capture_output=True, text=True)
    assert done.returncode == 0 and b"ldp_measure" in built.read_bytes(), done.stderr


def test_without_a_gpu_it_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(microbenchmarks.torch.cuda, "is_available", lambda: False)
    assert microbenchmarks.main() == 1
    assert "no CUDA device was found" in capsys.readouterr().err
    microbenchmarks.library.cache_clear()
    with pytest.raises(RuntimeError, match="expected a GPU and nvcc"):
        microbenchmarks.measure("scatter", 1)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", microbenchmarks.KINDS)
def test_rates_are_within_reason(kind: str) -> None:
    if (reason := microbenchmarks.missing()) is not None:
        pytest.skip(reason)
    assert 1e-2 < microbenchmarks.measure(kind, 4).per_second < 1e5
