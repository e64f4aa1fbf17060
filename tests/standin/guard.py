"""Compiles and loads guard.cpp, before torch is imported."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ..support import built

SOURCE = Path(__file__).with_name("guard.cpp")


def load() -> None:
    """Gives a PyTorch without CUDA what autograd asks for; compiled once, and kept.

    Raises:
        RuntimeError: torch is there already, there is no compiler, or it refuses.
    """
    if "torch" in sys.modules:
        raise RuntimeError("LDP_TEST_GPU: expected to start before torch is imported, but it was")
    spec = importlib.util.find_spec("torch")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if spec is None or spec.origin is None or compiler is None:
        raise RuntimeError("LDP_TEST_GPU: expected torch and a C++ compiler (g++, or CXX), found not both")
    folder = Path(spec.origin).parent

    def make(path: Path) -> None:
        command = [compiler, "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{folder / 'include'}", str(SOURCE)]
        command += ["-o", str(path), f"-L{folder / 'lib'}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{folder / 'lib'}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"LDP_TEST_GPU: {SOURCE.name} does not compile: {done.stderr}")

    key = built.digest(importlib.metadata.version("torch"), str(folder), SOURCE.read_bytes())
    ctypes.CDLL(str(built.kept("guard.so", key, make)), mode=ctypes.RTLD_GLOBAL)
