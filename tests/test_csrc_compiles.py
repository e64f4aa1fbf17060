"""Every .cu file compiles for the architectures that are promised, GPU or not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch.utils.cpp_extension

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "csrc").rglob("*.cu"))


def find_nvcc() -> str | None:
    """The CUDA compiler of CUDA_HOME, else the one on the PATH, as setup.py has it."""
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")


@pytest.mark.parametrize("architecture", ["80", "90", "120"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_compiles(source: Path, architecture: str, tmp_path: Path) -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc in CUDA_HOME/bin or on the PATH")
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    if not re.search(rf"compute_{architecture}\b", known):
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    includes = [f"-I{path}" for path in (ROOT / "csrc" / "include", *torch.utils.cpp_extension.include_paths())]
    command = [
        nvcc,
        "-c",
        "-std=c++17",
        "-O1",
        f"-arch=sm_{architecture}",
        "--expt-relaxed-constexpr",
        "-Werror=all-warnings",
    ]
    command += ["-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", *includes, str(source)]
    done = subprocess.run([*command, "-o", str(tmp_path / "out.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.o").stat().st_size > 0


def test_there_is_something_to_compile() -> None:
    assert SOURCES
