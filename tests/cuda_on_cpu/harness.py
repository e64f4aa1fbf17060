"""Builds and runs drivers: C++ programmes that call .cu and _cpu.cpp files of csrc, on the CPU, under sanitizers.

A driver includes "testing.h", calls the entry points (a null stream will do) inside `for_every_order`, and compares.
Everything is compiled as C++ with LDP_CUDA_ON_CPU and LDP_NO_TORCH; what was compiled is kept (tests/support/built.py).

    def test_kernels() -> None:
        harness.check(HERE / "foo_driver.cpp", ["foo/foo.cu", "foo/foo_cpu.cpp"])

    def test_no_races() -> None:
        harness.check_races(HERE / "foo_driver.cpp", ["foo/foo.cu", "foo/foo_cpu.cpp"])

`check` runs under AddressSanitizer and UBSan. `check_races` runs another build of the same driver, which finds data
races whatever the results are (races.h).
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import built

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
RUNTIME = tuple(HERE / f"{name}.cpp" for name in ("cuda_on_cpu", "limits", "tensor_core", "testing"))
RACES_RUNTIME = (*RUNTIME, HERE / "races.cpp")

SANITIZERS = ("-Og", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
# The compiler announces accesses to a runtime of our own. At fixed addresses, so that addr2line finds the lines.
RACES = ("-Og", "-DLDP_RACES", "-fno-pie")
ANNOUNCED = "-fsanitize=thread"
FLAGS = (
    "-std=c++17",
    "-g1",
    "-fno-omit-frame-pointer",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-DLDP_CUDA_ON_CPU",
    "-DLDP_NO_TORCH",
    f"-I{CSRC / 'include'}",
    f"-I{CSRC}",
    f"-I{HERE}",
)

# A leak would be the driver's own, and LeakSanitizer needs ptrace, which containers forbid. Fibers have no fake stacks.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=0:exitcode=71:symbolize=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:exitcode=72",
}


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cuda-on-cpu-")


def folder() -> str:
    """A folder for what is built, removed when the process ends."""
    return _temporary().name


@functools.cache
def find_compiler() -> str | None:
    """Returns a C++ compiler that comes with the sanitizers' runtimes, None without one."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "clang++")):
        compiler = shutil.which(name)
        if compiler is None:
            continue
        command = [compiler, *SANITIZERS, "-x", "c++", "-", "-o", str(Path(folder()) / "probe")]
        if subprocess.run(command, input="int main() {}", capture_output=True, text=True).returncode == 0:
            return compiler
    return None


def _compiler() -> str:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("there is no g++ or clang++ with AddressSanitizer and UBSan")
    return compiler


@functools.cache
def _compiler_version() -> str:
    return subprocess.run([_compiler(), "--version"], capture_output=True, text=True, check=True).stdout


@functools.cache
def compile_object(source: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compiles one file, once for all who want it.

    Args:
        source: a .cpp or .cu file.
        flags: added to the command.

    Returns:
        The object file.
    """

    def make(to: Path) -> None:
        command = [_compiler(), *FLAGS, *flags, "-x", "c++", "-c", str(source), "-o", str(to)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{source.name} does not compile as C++ for the CPU:\n{done.stderr}"

    key = built.digest(_compiler_version(), built.headers(), str(source), source.read_bytes(), *FLAGS, *flags)
    return built.kept(f"{source.stem}.o", key, make)


def build(
    driver: Path, sources: Sequence[str | Path] = (), flags: tuple[str, ...] = (), *, races: bool = False
) -> Path:
    """Builds a driver with the sources it calls.

    Args:
        driver: a .cpp file with a `main`.
        sources: .cu and .cpp files, relative to csrc (or absolute).
        flags: for all of them, such as "-DSOME_MACRO=1".
        races: look for data races instead of bad accesses.

    Returns:
        The programme.
    """
    files = (driver, *(CSRC / source for source in sources))
    objects = [compile_object(file, (*_instrumentation(file, races), *flags)) for file in files]
    return _link((*objects, *runtime(races)), ("-no-pie",) if races else SANITIZERS)


def runtime(races: bool = False) -> list[Path]:
    """The harness's own objects: what checks, not what is checked, so without sanitizers. To be linked last, so that a
    function that a header defines is the one of another object, with its checks."""
    return [compile_object(file, (*(RACES if races else ()), "-O2")) for file in (RACES_RUNTIME if races else RUNTIME)]


def _instrumentation(source: Path, races: bool) -> tuple[str, ...]:
    if not races:
        return SANITIZERS
    return (*RACES, ANNOUNCED) if source.suffix == ".cu" else RACES


@functools.cache
def _link(objects: tuple[Path, ...], flags: tuple[str, ...]) -> Path:
    def make(to: Path) -> None:
        command = [_compiler(), *flags, *map(str, objects), "-o", str(to)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{objects[0].name} does not link:\n{done.stderr}"
        to.chmod(0o755)

    return built.kept(objects[0].name.split(".")[0], built.digest(*(o.name for o in objects), *flags), make)


def run(
    programme: Path, *arguments: str, environment: Mapping[str, str] | None = None, timeout: float = 300.0
) -> subprocess.CompletedProcess[str]:
    """Runs a driver and returns how it ended, whatever that was.

    Args:
        programme: from `build`.
        arguments: for its `main`.
        environment: added to the process's own, for instance LDP_CUDA_ORDER="reverse,random,7,7b".
        timeout: in seconds; a kernel whose blocks wait for each other hangs here.
    """
    variables = {**os.environ, **ENVIRONMENT, **(environment or {})}
    return subprocess.run([str(programme), *arguments], capture_output=True, text=True, env=variables, timeout=timeout)


def check(
    driver: Path,
    sources: Sequence[str | Path] = (),
    *arguments: str,
    flags: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """Builds and runs a driver that has to succeed. Returns what it printed."""
    return succeed(build(driver, sources, flags), *arguments, environment=environment)


def check_races(driver: Path, sources: Sequence[str | Path] = (), *arguments: str, flags: tuple[str, ...] = ()) -> str:
    """The same in the build that finds data races."""
    return succeed(build(driver, sources, flags, races=True), *arguments)


def succeed(programme: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Runs a driver that has to succeed. Returns what it printed."""
    done = run(programme, *arguments, environment=environment)
    assert done.returncode == 0, (
        f"{programme.name} {' '.join(arguments)}: expected exit code 0, got {done.returncode}\n"
        f"{done.stdout[-4000:]}{with_lines(programme, done.stderr[-12000:])}"
    )
    return done.stdout


def with_lines(programme: Path, report: str) -> str:
    """Replaces the "pc 0x..." of a report on races by function and line, where there is an addr2line."""
    tool = shutil.which("addr2line")

    def line(match: re.Match[str]) -> str:
        before = hex(int(match[1], 16) - 1)  # the call, not where it returns to
        command = [str(tool), "-e", str(programme), "-f", "-C", "-s", before]
        return ", ".join(subprocess.run(command, capture_output=True, text=True).stdout.split("\n")[:2])

    return re.sub(r"pc (0x[0-9a-f]+)", line, report) if tool else report
