"""Builds drivers of tests/csrc whose launches run what nvcc made of the kernels: PTX, translated to C++.

    def test_kernels() -> None:
        programme = emulator.build(DRIVER, {"foo/foo.cu": "foo_kernel<2>"}, ["foo/foo_cpu.cpp"], architecture=90)
    emulator.check(programme, "case")

Skips where there is no nvcc that knows the architecture, no c++filt, or no compiler with sanitizers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.cuda_on_cpu import harness, sass
from tests.cuda_on_cpu.harness import CSRC
from tests.ptx.translate import translate
from tests.support import built

HERE = Path(__file__).parent
# Every kernel and order. Without, a selection that a cold `make test` has time for: tests/csrc runs the sources of all
# kernels in all orders, and what they become differs little from one instantiation to the next.
EVERYTHING = os.environ.get("LDP_TEST_PTX") == "all"
ORDER = "random,random,1,ff"
# Unused registers are usual; the code is PTX's and not ours.
TRANSLATED = (f"-I{HERE}", "-fsanitize=address", "-O0", "-g0", "-Wno-all", "-Wno-extra", "-fno-strict-aliasing")
# Of a .cu file as C++ only what launches is wanted. Its kernels are compiled too, and are tests/csrc's to check.
LAUNCHES = (f"-I{HERE}", "-include", str(HERE / "ptx_launch.h"), "-O0")


def ptx(source: Path, architecture: int) -> str:
    """The PTX that nvcc makes with the extension's flags."""
    if shutil.which("c++filt") is None:
        pytest.skip("there is no c++filt")
    return sass.ptx(source, architecture).read_text()


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
    objects = [harness.compile_object(file, harness.SANITIZERS) for file in (driver, *(CSRC / s for s in sources))]
    objects += [harness.compile_object(HERE / "ptx_launch.cpp", (f"-I{HERE}", "-O1"))]
    for name, wanted in kernels.items():
        objects.append(harness.compile_object(CSRC / name, LAUNCHES))
        code = translate(change(ptx(CSRC / name, architecture)), wanted)
        objects.append(harness.compile_object(_kept(f"{Path(name).stem}.ptx.cpp", code), TRANSLATED))
    return harness._link((*objects, *harness.runtime()), harness.SANITIZERS)


def _kept(name: str, text: str) -> Path:
    def make(to: Path) -> None:
        to.write_text(text)

    return built.kept(name, built.digest(text), make)


def environment(device: str = "sm_90") -> dict[str, str]:
    """A driver's environment variables.

    Args:
        device: whose shared memory there is; see cuda_on_cpu/limits.h.
    """
    return {"LDP_CUDA_DEVICE": device} | ({} if EVERYTHING else {"LDP_CUDA_ORDER": ORDER})


def choose(monkeypatch: pytest.MonkeyPatch, device: str = "sm_90") -> None:
    """The same for drivers that others run."""
    for variable, value in environment(device).items():
        monkeypatch.setenv(variable, value)


def check(programme: Path, *arguments: str) -> None:
    """Runs a driver that has to succeed: in one order of threads and blocks, or, for EVERYTHING, in all."""
    harness.succeed(programme, *arguments, environment=environment())
