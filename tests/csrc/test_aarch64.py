"""The CPU's code for ARM: compiled by a cross compiler, run in an emulator, and what its inner loop consists of.

Debian's packages are g++-aarch64-linux-gnu and qemu-user. On an ARM machine its own compiler is taken, and no emulator.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.cuda_on_cpu import harness
from tests.support import built

from .test_frozen_conv import KINDS, arguments
from .test_group_norm_silu import SOURCES as GROUP_NORM

HERE = Path(__file__).parent
NATIVE = platform.machine() == "aarch64"
COMPILER = shutil.which("g++" if NATIVE else "aarch64-linux-gnu-g++")
EMULATOR = [] if NATIVE else [shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")]
SOURCES = sorted(harness.CSRC.rglob("*_cpu.cpp"))
OPTIMISED = ("-O3", "-fno-math-errno")
NO_SANITIZERS = "-DLDP_NO_SANITIZERS"  # the cross compiler brings no emulated ones
CASES = ("one-pixel", "odd", "several-tiles", "several-blocks", "misaligned", "not-a-number-activated")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no aarch64-linux-gnu-g++")
emulated = pytest.mark.skipif(None in EMULATOR, reason="there is no qemu-aarch64")


def compiled(files: tuple[Path, ...], *flags: str) -> Path:
    """What the compiler makes of files, once."""

    def make(to: Path) -> None:
        command = [str(COMPILER), *harness.FLAGS, NO_SANITIZERS, *flags, *map(str, files), "-o", str(to)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{files[-1].name} does not compile for ARM:\n{done.stderr[-4000:]}"
        to.chmod(0o755)

    version = subprocess.run([str(COMPILER), "--version"], capture_output=True, text=True, check=True).stdout
    contents = [part for file in files for part in (str(file), file.read_bytes())]
    key = built.digest(version, built.headers(), NO_SANITIZERS, *flags, *harness.FLAGS, *contents)
    return built.kept(f"aarch64-{files[-1].stem}", key, make)


def run(driver: str, sources: tuple[str, ...], *case: str) -> None:
    files = (*harness.RUNTIME, *(harness.CSRC / source for source in sources), HERE / driver)
    programme = compiled(files, "-O2", "-static")
    done = harness.run(Path(str(EMULATOR[0])), str(programme), *case) if EMULATOR else harness.run(programme, *case)
    assert done.returncode == 0, f"{driver} {case}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_compiles_without_a_warning(source: Path) -> None:
    compiled((source,), *OPTIMISED, "-c")


@emulated
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_agree_with_plain_loops(kind: str) -> None:
    for case in CASES:
        run("frozen_conv_driver.cpp", ("frozen_conv/frozen_conv_cpu.cpp",), *arguments(kind, case))


@emulated
def test_group_norm_agrees_with_plain_loops() -> None:
    run("group_norm_silu_driver.cpp", tuple(GROUP_NORM))


def test_the_matrix_product_is_of_fused_multiply_adds_in_registers() -> None:
    """NEON's FMLA on four floats, nothing multiplied alone, no vector kept on the stack."""
    text = compiled(
        (harness.CSRC / "frozen_conv" / "frozen_conv_cpu.cpp",), *OPTIMISED, "-S", "-fomit-frame-pointer"
    ).read_text()
    (body,) = re.findall(r"^\S*portable\S*multiply_point\S*:$(.*?)^\s+\.size", text, re.MULTILINE | re.DOTALL)
    opcodes = Counter(re.findall(r"^\s+([a-z]\w*)\s", body, re.MULTILINE))
    assert opcodes["fmla"] > 400 and not opcodes["fmul"], opcodes
    assert re.search(r"fmla\s+v\d+\.4s", body)
    assert not re.search(r"(ldr|str)\s+q\d+, \[sp", body)
