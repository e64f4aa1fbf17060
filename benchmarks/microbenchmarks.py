"""What the GPU's memory allows: scattered reductions, gathers and copies, for tables of 1 to 64 MB.

    python -m benchmarks.microbenchmarks

Compiles microbenchmarks.cu with nvcc, for the GPU that is there, into a shared library in a temporary folder. The
encoding's forward pass is 8·L·S gathers, its backward pass 8·L·S reductions: their share of these rates is how much of
the hardware they use (docs/performance.md).
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ldp_fast.env_report import find_nvcc

HERE = Path(__file__).parent
SOURCE = HERE / "microbenchmarks.cu"
KINDS = ("scatter", "gather", "copy")
MEGABYTES = (1, 2, 4, 8, 16, 32, 64)
ACCESSES = 8 * 16 * 262_144  # of one encoding of 64×64 rays of 64 samples
ROUNDS = 20


@dataclass(frozen=True)
class Rate:
    """One measurement.

    Attributes:
        kind: a name of `KINDS`.
        megabytes: of the table.
        seconds: of one launch.
        accesses: of 8 bytes; of a copy, its reads and writes.
    """

    kind: str
    megabytes: int
    seconds: float
    accesses: int

    @property
    def per_second(self) -> float:
        """Accesses a second, in units of 10⁹."""
        return self.accesses / self.seconds / 1e9

    @property
    def bandwidth(self) -> float:
        """Bytes a second, in units of 10⁹."""
        return 8 * self.per_second


def missing() -> str | None:
    """Returns why nothing can be measured here, or None."""
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    if find_nvcc() is None:
        return "there is no nvcc to compile microbenchmarks.cu"
    return None


def command(nvcc: str, output: Path, architecture: str, *flags: str) -> list[str]:
    """nvcc's command line for an architecture such as "sm_90" or "native"."""
    include = f"-I{HERE.parent / 'csrc' / 'include'}"
    return [nvcc, "-std=c++17", "-O3", f"-arch={architecture}", include, *flags, str(SOURCE), "-o", str(output)]


@functools.cache
def library() -> ctypes.CDLL:
    """Compiles and loads the benchmarks.

    Raises:
        RuntimeError: there is no GPU or no nvcc, or it fails.
    """
    reason = missing()
    if reason is not None:
        raise RuntimeError(f"microbenchmarks: expected a GPU and nvcc: {reason}")
    # Kept for the life of the process: the library is loaded from it.
    folder = Path(tempfile.mkdtemp(prefix="ldp-fast-microbenchmarks-"))
    built = folder / "microbenchmarks.so"
    done = subprocess.run(
        command(str(find_nvcc()), built, "native", "-shared", "-Xcompiler=-fPIC"),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"microbenchmarks: nvcc: {done.stderr}")
    loaded = ctypes.CDLL(str(built))
    loaded.ldp_measure.restype = ctypes.c_char_p
    loaded.ldp_measure.argtypes = [
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_longlong,
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_double),
    ]
    return loaded


def measure(kind: str, megabytes: int, accesses: int = ACCESSES) -> Rate:
    """Measures one kind of access to a table of so many megabytes (2²⁰ bytes; a power of two).

    Raises:
        RuntimeError: as `library`, or what CUDA says.
    """
    entries, seconds = megabytes * 2**20 // 8, ctypes.c_double()
    error = library().ldp_measure(KINDS.index(kind), entries, accesses, ROUNDS, ctypes.byref(seconds))
    if error is not None:
        raise RuntimeError(f"microbenchmarks: {kind}: {error.decode()}")
    return Rate(kind, megabytes, seconds.value, entries if kind == "copy" else accesses)


def main() -> int:
    """Prints the table of rates."""
    reason = missing()
    if reason is not None:
        print(f"nothing to measure: {reason}", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}: 10⁹ accesses of 8 bytes a second (10⁹ bytes a second)")
    print(f"{'table':>8}" + "".join(f"{kind:>22}" for kind in KINDS))
    for megabytes in MEGABYTES:
        rates = [measure(kind, megabytes) for kind in KINDS]
        print(f"{megabytes:>5} MB" + "".join(f"{rate.per_second:>12.1f} ({rate.bandwidth:>7.0f})" for rate in rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
