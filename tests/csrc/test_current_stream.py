"""How the extension finds torch's CUDA stream: a library that is loaded RTLD_LOCAL, after the extension, and whose
symbols nothing links (csrc/current_stream.cpp). A stub of torch's library stands in for it, so no GPU is needed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldp_fast.ops import _native

from ..support.built import digest, kept

STUB = """
#include <cstdint>
extern "C" int32_t aoti_torch_get_current_cuda_stream(int32_t device, void** stream) {
    if (device > 7) return 1;
    *stream = reinterpret_cast<void*>(static_cast<uintptr_t>(0x1000 + device));
    return 0;
}
"""
# As Python loads torch's libraries: nothing of them is in the process' global scope.
PROGRAM = """
import ctypes, os, sys
import torch
from ldp_fast import _C
assert not _C.has_current_stream(), "the stub is not loaded yet"
try:
    _C.current_stream(0)
except RuntimeError as error:
    assert "expected a torch with CUDA" in str(error), error
else:
    raise AssertionError("a stream without a torch that has one")
ctypes.CDLL(sys.argv[1], mode=os.RTLD_LOCAL | os.RTLD_NOW)
assert not hasattr(ctypes.CDLL(None), "aoti_torch_get_current_cuda_stream"), "the stub is in the global scope"
assert _C.has_current_stream()
assert [_C.current_stream(index) for index in (0, 3)] == [0x1000, 0x1003]
try:
    _C.current_stream(8)
except RuntimeError as error:
    assert "device 8" in str(error), error
else:
    raise AssertionError("torch's error was not heard")
print("found")
"""

needs_extension = pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension")


@needs_extension
@pytest.mark.skipif(torch.version.cuda is not None, reason="needs a torch without CUDA: this one has the real library")
@pytest.mark.skipif(sys.platform != "linux", reason="libtorch_cuda.so is Linux's name of it")
def test_a_library_loaded_for_itself_is_found() -> None:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")

    def make(path: Path) -> None:
        source = path.with_suffix(".cpp")
        source.write_text(STUB)
        name = "-Wl,-soname,libtorch_cuda.so"
        subprocess.run([compiler, "-shared", "-fPIC", name, str(source), "-o", str(path)], check=True)
        source.unlink()

    library = kept("libtorch_cuda_stub.so", digest(STUB), make)
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(library)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "found\n", done.stderr


@needs_extension
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a torch with CUDA; none of its devices")
def test_a_torch_with_cuda_has_it() -> None:
    """Also where there is no GPU: the library is loaded with torch."""
    assert _native.extension().has_current_stream()


@needs_extension
@pytest.mark.gpu
def test_it_is_torch_s_current_stream() -> None:
    extension, side = _native.extension(), torch.cuda.Stream()
    assert extension.current_stream(0) == torch.cuda.current_stream(0).cuda_stream
    with torch.cuda.stream(side):
        assert extension.current_stream(0) == side.cuda_stream
