"""ldp/launch.h as nvcc compiles it asks each device for its own, once, and nothing that a capture forbids."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cuda_on_cpu.harness import CSRC, HERE
from tests.cuda_on_cpu.sass import find_nvcc


def test_devices_and_kernels_are_asked_once_each(tmp_path: Path) -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc in CUDA_HOME/bin or on the PATH")
    programme = tmp_path / "launch"
    # Without a runtime to link with: what fake_runtime.cpp does not have is an error.
    command = [
        nvcc,
        "-cudart=none",
        "-std=c++17",
        "-O1",
        "-DUSE_CUDA",
        "-Werror=all-warnings",
        "-Xcompiler=-Wall,-Wextra",
    ]
    command += [f"-I{CSRC / 'include'}", f"-I{HERE}", str(HERE / "launch_driver.cu"), str(HERE / "fake_runtime.cpp")]
    done = subprocess.run([*command, "-o", str(programme)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([str(programme)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
