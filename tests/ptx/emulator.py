"""Builds drivers of tests/csrc whose launches run what nvcc made of the kernels: PTX, translated to C++.

    def test_kernels() -> None:
        programme = emulator.build(DRIVER, {"foo/foo.cu": "foo_kernel<2>"}, ["foo/foo_cpu.cpp"], architecture=90)
    emulator.check(programme, "case")

Skips where there is no nvcc that knows the architecture, no c++filt, or no compiler with sanitizers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests import built
from tests.cuda_on_cpu import harness
from tests.cuda_on_cpu.harness import CSRC
from tests.cuda_on_cpu.sass import find_nvcc
from tests.ptx.translate import translate

HERE = Path(__file__).parent
# Unused registers are usual; the code is PTX's and not ours.
TRANSLATED = (f"-I{HERE}", "-fsanitize=address", "-O0", "-g0", "-Wno-all", "-Wno-extra", "-fno-strict-aliasing")


def ptx(source: Path, architecture: int) -> str:
    """The PTX that nvcc makes with the extension's flags."""
    nvcc = find_nvcc()
    if nvcc is None or shutil.which("c++filt") is None:
        pytest.skip("there is no nvcc in CUDA_HOME/bin or on the PATH, or no c++filt")
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    if not re.search(rf"compute_{architecture}\b", known):
        pytest.skip(f"this nvcc does not know compute_{architecture}")
    command = [nvcc, "-ptx", "-std=c++17", "-O3", f"-arch=compute_{architecture}", "--expt-relaxed-constexpr"]
    command += ["-DUSE_CUDA", "-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__"]
    command += ["-D__CUDA_NO_HALF2_OPERATORS__", f"-I{CSRC / 'include'}", f"-I{CSRC}", str(source)]

    def make(to: Path) -> None:
        done = subprocess.run([*command, "-o", f"{to}.ptx"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        Path(f"{to}.ptx").replace(to)

    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    key = built.digest(version, built.headers(), source.read_bytes(), *command)
    return built.kept(f"{source.stem}.compute_{architecture}.ptx", key, make).read_text()


def build(
    driver: Path,
    kernels: Mapping[str, str],
    sources: Sequence[str],
    architecture: int,
    change: Callable[[str], str] = str,
) -> Path:
    """Builds a driver.

    Args:
        driver: a .cpp file with a `main`.
        kernels: .cu files, relative to csrc, each with a regular expression for the kernels that are launched.
        sources: the driver's other files, relative to csrc.
        architecture: 90 for compute_90.
        change: applied to the PTX, for planting faults.

    Returns:
        The programme.
    """
    launches = (f"-I{HERE}", "-include", str(HERE / "ptx_launch.h"))
    objects = [harness.compile_object(file, (*harness.SANITIZERS, "-O2")) for file in harness.RUNTIME]
    objects += [harness.compile_object(HERE / "ptx_launch.cpp", (f"-I{HERE}", "-O1"))]
    objects += [harness.compile_object(file, harness.SANITIZERS) for file in (driver, *(CSRC / s for s in sources))]
    for name, wanted in kernels.items():
        objects.append(harness.compile_object(CSRC / name, (*harness.SANITIZERS, *launches)))
        code = translate(change(ptx(CSRC / name, architecture)), wanted)
        objects.append(harness.compile_object(_kept(f"{Path(name).stem}.ptx.cpp", code), TRANSLATED))
    return harness._link(tuple(objects), harness.SANITIZERS)


def _kept(name: str, text: str) -> Path:
    def make(to: Path) -> None:
        to.write_text(text)

    return built.kept(name, built.digest(text), make)


def check(programme: Path, *arguments: str) -> None:
    """Runs a driver that has to succeed."""
    done = harness.run(programme, *arguments)
    assert done.returncode == 0, (
        f"{programme.name} {' '.join(arguments)}: expected exit code 0, got {done.returncode}\n"
        f"{done.stdout[-4000:]}{done.stderr[-12000:]}"
    )
