"""Builds the optional extension `ldp_fast._C`; everything else is in pyproject.toml.

Switches, all environment variables (docs/installation.md):

    LDP_FAST_EXT          0, 1 or auto (default): build the extension if there is torch and a C++ compiler
    LDP_FAST_CUDA         0, 1 or auto (default): with CUDA code if there is an nvcc; a visible GPU plays no part
    TORCH_CUDA_ARCH_LIST  architectures, default "8.0;9.0;12.0+PTX" as far as nvcc knows them
    MAX_JOBS              compiler processes; NVCC_THREADS: threads of each nvcc
    DEBUG                 1 builds without optimisation and with symbols

1 means required: the build fails where auto would leave the part out. torch is imported to build, not for metadata.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import setuptools

CSRC = Path("csrc")
USUAL = Path("/usr/local/cuda")  # where NVIDIA's packages put a toolkit
ARCHITECTURES = ("8.0", "9.0", "12.0")
OLDEST_SETUPTOOLS = 77  # which knows `license = "Apache-2.0"`; an older one fails with a page about it
TORCH_TARGET = "0x020a000000000000"  # 2.10, the oldest torch whose stable ABI the extension uses
BUILDS = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}


def fail(message: str) -> Any:
    """Ends the build with one sentence."""
    raise SystemExit(f"ldp-fast: {message}")


def switch(name: str) -> str:
    """An environment variable that is 0, 1 or auto."""
    value = os.environ.get(name, "").strip().lower() or "auto"
    return value if value in ("0", "1", "auto") else fail(f"{name}: expected 0, 1 or auto, got {value!r}")


def jobs(name: str) -> int:
    """An environment variable that is a positive whole number, 1 where it is not set."""
    value = os.environ.get(name, "").strip() or "1"
    return int(value) if value.isdecimal() and int(value) else fail(f"{name}: expected a number above 0, got {value!r}")


def find_nvcc() -> Path | None:
    """The CUDA compiler of CUDA_HOME, else the one on the PATH, else where NVIDIA's packages put it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = (home and shutil.which("nvcc", path=f"{home}/bin")) or shutil.which("nvcc")
    found = found or shutil.which("nvcc", path=str(USUAL / "bin"))
    return Path(found) if found else None


def output(*command: str | Path) -> str:
    """What a command prints, on both streams; empty if it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout if done.returncode == 0 else ""


def toolkit(nvcc: Path) -> Path:
    """The root of nvcc's toolkit; nvcc is asked, because the one on the PATH may be a wrapper or a link."""
    top = re.search(r"^#\$ TOP=(.+)$", output(nvcc, "--dryrun", "-x", "cu", "-c", os.devnull), re.MULTILINE)
    return Path(top[1].strip()).resolve() if top else nvcc.resolve().parent.parent


def default_architectures(known: str) -> str:
    """ARCHITECTURES as far as nvcc knows them (`nvcc --list-gpu-arch`), the newest with PTX for GPUs to come."""
    names = re.findall(r"compute_(\d+)\b", known)
    chosen = [a for a in ARCHITECTURES if a.replace(".", "") in names] or list(ARCHITECTURES[:1])
    return ";".join(chosen) + "+PTX"


def mismatch(release: str, torch_cuda: str | None) -> str:
    """Why nvcc and torch do not go together, empty if they do; a torch without CUDA goes with any nvcc."""
    major = re.search(r"release (\d+)", release)
    if not torch_cuda or not major or major[1] == torch_cuda.split(".")[0]:
        return ""
    return f"expected an nvcc of torch's CUDA generation ({torch_cuda}), got CUDA {major[1]}"


def usable_nvcc(torch_cuda: str | None) -> Path | None:
    """The nvcc to build with, None for a build without CUDA; an error where CUDA was required and cannot be had."""
    if (wanted := switch("LDP_FAST_CUDA")) == "0":
        return None
    nvcc = find_nvcc()
    absent = f"expected an nvcc in CUDA_HOME/bin, on the PATH or in {USUAL}/bin, found none"
    reason = mismatch(output(nvcc, "--version"), torch_cuda) if nvcc else absent
    if reason and wanted == "1":
        fail(f"LDP_FAST_CUDA=1: {reason}")
    if reason:
        print(f"ldp-fast: CUDA is left out: {reason}", file=sys.stderr)
    return None if reason else nvcc


def missing(what: str) -> dict[str, Any]:
    """Nothing to build, and why; an error where the extension was required."""
    if "1" in (switch("LDP_FAST_EXT"), switch("LDP_FAST_CUDA")):
        fail(f"the extension was required (LDP_FAST_EXT=1 or LDP_FAST_CUDA=1), expected {what}, found none")
    print(f"ldp-fast: the extension is left out: no {what}", file=sys.stderr)
    return {}


def build_arguments() -> dict[str, Any]:
    """`ext_modules` and `cmdclass` for setup()."""
    extension, cuda, debug = switch("LDP_FAST_EXT"), switch("LDP_FAST_CUDA"), os.environ.get("DEBUG") == "1"
    jobs("MAX_JOBS")  # torch reads it
    if extension == "0":
        return fail("LDP_FAST_CUDA=1 contradicts LDP_FAST_EXT=0") if cuda == "1" else {}
    if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++", "cl")))):
        return missing("C++ compiler")
    try:
        import torch
        from torch.utils import cpp_extension
    except ModuleNotFoundError:
        return missing("torch to build against (use --no-build-isolation)")
    nvcc = usable_nvcc(torch.version.cuda)
    sources = sorted(str(p) for p in CSRC.rglob("*.cpp"))
    macros: list[tuple[str, str | None]] = [("TORCH_TARGET_VERSION", TORCH_TARGET), ("LDP_DEBUG", str(int(debug)))]
    # No contraction: same samples on CPU and GPU (host_device.h). No errno: it keeps loops from becoming vector code.
    host = [*(["-O0", "-g"] if debug else ["-O3"]), "-ffp-contract=off", "-fno-math-errno"]
    flags = {"cxx": host, "nvcc": ["-O0", "-g", "-G"] if debug else ["-O3", "-lineinfo"]}
    includes, libraries = [str((CSRC / "include").resolve())], {}
    if nvcc is not None:
        home = toolkit(nvcc)
        # A torch without CUDA leaves this None, and its BuildExtension would then refuse .cu files.
        cpp_extension.CUDA_HOME = str(home)
        if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
            os.environ["TORCH_CUDA_ARCH_LIST"] = default_architectures(output(nvcc, "--list-gpu-arch"))
        macros.append(("USE_CUDA", None))
        flags["nvcc"].append(f"--threads={jobs('NVCC_THREADS')}")
        sources += sorted(str(p) for p in CSRC.rglob("*.cu"))
        includes.append(str(home / "include"))  # host code asks the runtime for the current device
        # The static runtime: the extension then loads on machines without a CUDA toolkit, and beside any torch.
        libraries = {"library_dirs": [str(home / "lib64")], "libraries": ["cudart_static", "dl", "rt", "pthread"]}
    options = {"include_dirs": includes, "define_macros": macros, "extra_compile_args": flags, **libraries}

    class Build(cpp_extension.BuildExtension):
        def run(self) -> None:  # its objects are kept, so that ninja compiles what has changed
            self.build_temp = f"build/{sys.implementation.cache_tag}-torch-{torch.__version__}"
            super().run()

    module = cpp_extension.CppExtension("ldp_fast._C", sources, **options)
    return {"ext_modules": [module], "cmdclass": {"build_ext": Build}}


if __name__ == "__main__":
    if int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
        needed = f"setuptools>={OLDEST_SETUPTOOLS}"
        fail(f"expected {needed}, got {setuptools.__version__}: first run pip install '{needed}' ninja")
    setuptools.setup(**(build_arguments() if BUILDS.intersection(sys.argv) else {}))
