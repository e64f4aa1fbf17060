"""The machine a benchmark runs on: its name, what it can do, and the versions of what runs on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from tests.support import instruction_sets

from . import REHEARSING

PACKAGES = ("torch", "triton", "diffusers", "transformers", "numpy")


def cpu_facts() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo, by name; nothing where there is no such file."""
    file = Path("/proc/cpuinfo")
    text = file.read_text().split("\n\n")[0] if file.exists() else ""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def cpu_name() -> str:
    """The processor's model, as it calls itself."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_device() -> str:
    """`cuda` where torch can use it, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def slug() -> str:
    """A short name for a file: the GPU where there is one, else the processor, cores, and a forced instruction set."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    # Marks, clock rates and what the name says of cores ("24-Core Processor") say nothing that the rest does not.
    name = re.sub(r"\((R|TM)\)|@.*|\b\d+-Core\b|\bProcessor\b|\bCPU\b", " ", name, flags=re.IGNORECASE)
    forced = [limit] if (limit := limited_to()) else []
    return "-".join([*re.findall(r"[a-z0-9]+", name.lower()), str(cores()), "cores", *forced])


def limited_to() -> str:
    """The instruction set that everything was held to (tests/support/instruction_sets.py), empty for its own."""
    return os.environ.get(instruction_sets.VARIABLE, "")


def describe() -> dict[str, Any]:
    """What a results file says of its machine."""
    facts: dict[str, Any] = {"slug": slug(), "cpu": cpu_name(), "cores": cores(), "system": platform.system()}
    facts |= {"limited_to": limited_to()}
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    facts |= {"memory_gib": round(pages / 2**30), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
    facts |= {"bfloat16": bfloat16_missing("cpu") is None, "gpu": None}
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties()
        facts |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30)}
        facts |= {"gpu_capability": f"{properties.major}.{properties.minor}"}
    return facts


def versions() -> dict[str, str | None]:
    """Versions of Python, of CUDA and of the packages that decide a time; None for what is absent."""
    found: dict[str, str | None] = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def compile_missing(device: str) -> str | None:
    """Why torch.compile cannot be timed here, or None."""
    if device == "cpu" and not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        return "torch.compile needs a C++ compiler for the CPU"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "torch.compile needs Triton for the GPU"
    if REHEARSING:
        return "torch.compile wants a GPU's own tensors"
    return None


def bfloat16_missing(device: str) -> str | None:
    """Why bfloat16 is not worth timing here, or None: without instructions for it every product is converted."""
    if device == "cuda":
        return None if torch.cuda.is_bf16_supported() else "this GPU has no bfloat16"
    flags = (cpu_facts().get("flags") or cpu_facts().get("Features") or "").split()
    if {"avx512_bf16", "amx_bf16", "bf16"} & set(flags):
        return None
    return "this processor has no instructions for bfloat16 (avx512_bf16, amx_bf16 or bf16)"


def main() -> int:
    """Prints the machine's short name."""
    print(slug())
    return 0


if __name__ == "__main__":
    sys.exit(main())
