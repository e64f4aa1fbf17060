"""The instruction sets that a processor can do without, so that the tests on one speak for lesser ones.

    LDP_TEST_INSTRUCTIONS=avx2 python -m pytest tests/decoder

has torch, its oneDNN and MKL, and the extension compute as on a processor with AVX2 and no AVX-512; `plain` as on any
of x86-64. All of them read their variables when they are loaded: conftest.py calls `pretend` before it imports torch.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "LDP_TEST_INSTRUCTIONS"


@dataclass(frozen=True)
class InstructionSet:
    """How to have nothing wider run.

    Attributes:
        lanes: floats in a vector.
        capability: what torch calls it.
        onednn: the name oneDNN takes for the widest it may use.
        mkl: likewise for MKL, which obeys it on Intel's processors only.
    """

    lanes: int
    capability: str
    onednn: str
    mkl: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that have to be set before torch is imported."""
        return {
            "ATEN_CPU_CAPABILITY": self.capability.lower(),
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
            "LDP_FAST_LANES": str(self.lanes),
        }


SETS = {"plain": InstructionSet(4, "DEFAULT", "SSE41", "SSE4_2"), "avx2": InstructionSet(8, "AVX2", "AVX2", "AVX2")}
AVX2 = {"avx2", "fma"}
AVX512 = AVX2 | {"avx512f", "avx512vl", "avx512dq", "avx512bw"}


def chosen() -> InstructionSet | None:
    """Returns the set that the variable names, None where it is not set.

    Raises:
        ValueError: it names none.
    """
    name = os.environ.get(VARIABLE, "")
    if not name:
        return None
    if name not in SETS:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(SETS)}, got {name!r}")
    return SETS[name]


def pretend() -> None:
    """Sets the variables of the chosen set, for this process and those it starts."""
    if (wanted := chosen()) is not None:
        os.environ.update(wanted.environment)


def own_lanes(cpuinfo: str) -> int:
    """Floats in a vector of the widest instructions of a processor.

    Args:
        cpuinfo: Linux's description of it, /proc/cpuinfo.
    """
    flags = next((set(line.split()) for line in cpuinfo.splitlines() if line.startswith("flags")), set())
    return 16 if flags >= AVX512 else 8 if flags >= AVX2 else 4


def cannot_pretend() -> str | None:
    """Returns why the chosen set cannot be pretended on this machine, or None; also None where none is chosen."""
    wanted, cpuinfo = chosen(), Path("/proc/cpuinfo")
    if wanted is None:
        return None
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.is_file():
        return f"{VARIABLE}: needs an x86-64 processor and Linux, this is {platform.machine()}, {platform.system()}"
    own = own_lanes(cpuinfo.read_text())
    if own <= wanted.lanes:
        return f"{VARIABLE}: this processor has no more than {own} lanes itself, as the tests without it have run"
    return None
