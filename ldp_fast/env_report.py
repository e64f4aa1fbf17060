"""`ldp-fast env`: versions, devices, backends and, where one is not active, why. What a bug report needs.

Everything is asked for when the report is made, and whatever fails becomes a line of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
from typing import Any

from . import __version__, _settings
from ._precision import in_tf32
from ._threads import choice, waiting
from ._threads.cpus import Cpus

PACKAGES = ("torch", "triton", "numpy", "diffusers", "transformers", "tinycudann", "nerfacc")
ABSENT = "absent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.epilog = "examples:\n  ldp-fast env\n  ldp-fast env --json > report.json"


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code, 0."""
    report = collect()
    print(json.dumps(report, indent=2) if args.json else as_text(report))
    return 0


def collect() -> dict[str, Any]:
    """The report as plain data: `versions`, `devices`, `threads`, `backends`, `tools`, `models`."""
    return {
        "versions": versions(),
        "devices": {"cpu": cpu(), "gpus": gpus()},
        "threads": threads(),
        "backends": backends(),
        "tools": {"nvcc": nvcc(), "cuda_home": os.environ.get("CUDA_HOME") or ABSENT},
        "models": models(),
    }


def as_text(report: dict[str, Any]) -> str:
    """The report for reading."""
    lines = []
    for section, content in report.items():
        lines += [section, *_indented(content), ""]
    return "\n".join(lines[:-1])


def versions() -> dict[str, str]:
    """Versions of this package, Python, the system and the packages that matter; `absent` where there is none."""
    found = {"ldp_fast": __version__, "python": platform.python_version(), "os": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ABSENT
    torch = _torch()
    found["torch_cuda"] = ABSENT if torch is None or torch.version.cuda is None else torch.version.cuda
    return found


def cpu() -> dict[str, Any]:
    """Model, usable cores, and whether the processor computes in bfloat16 itself (Linux only; else unknown)."""
    try:
        info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        info = ""
    model = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", info, re.MULTILINE)
    known = {"amx_bf16", "avx512_bf16", "bf16"}.intersection(flags[1].split()) if flags else set()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": model[1] if model else platform.processor() or platform.machine(),
        "cores": cores,
        "bfloat16": (", ".join(sorted(known)) or "emulated") if flags else "unknown",
    }


def gpus() -> list[dict[str, Any]]:
    """The visible CUDA devices."""
    torch = _torch()
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": device.name,
                "capability": f"{device.major}.{device.minor}",
                "memory_gib": round(device.total_memory / 2**30, 1),
                "float32": f"{' and '.join(in_tf32()) or 'nothing'} in TF32",
            }
        )
    return found


def threads() -> dict[str, Any]:
    """What the command line chose for torch's threads on a CPU and why; to a library's users, what they could set."""
    torch, chosen = _torch(), choice.adopted()
    found: dict[str, Any] = {"allowed": choice.limits(Cpus.read())}
    advised = chosen or choice.choose(os.environ, Cpus.read(), waiting.observable())
    said = advised.waiting
    if advised.watch and (reason := waiting.unable()) is not None:
        said = f"the OpenMP runtime's way: {reason}"
    found |= {"number": advised.threads, "waiting": said} if chosen else {"chosen": "nothing: a library sets nothing"}
    found["set"] = " ".join(f"{name}={value}" for name, value in (chosen.set if chosen else {}).items()) or "nothing"
    found["torch_threads"] = ABSENT if torch is None else torch.get_num_threads()
    found["openmp"] = waiting.runtime() or "unknown"
    if chosen is None:
        found["hint"] = _hint(advised)
    return found


def _hint(advised: choice.Choice) -> str:
    """What a program that imports this package could do, as the command line does."""
    variables = " ".join(f"{name}={value}" for name, value in advised.set.items())
    if variables:
        return f"before torch is imported, {variables}, as the command line sets it"
    if not advised.watch:
        return f"{advised.waiting}, which the command line leaves as it is"
    return (
        f"beside other work, before torch is imported, {choice.POLICY}=passive: slower on a quiet machine, many times "
        "as fast on a busy one (docs/contention.md)"
    )


def backends() -> dict[str, Any]:
    """Which implementations serve the operators; each with `active` and the reason, `why`."""
    try:
        setting: str | None = _settings.backend()
        shown = setting
    except ValueError as error:
        setting, shown = None, f"invalid: {error}"
    try:
        lanes = _settings.lanes()
    except ValueError as error:
        lanes = f"invalid: {error}"
    try:
        attention = _settings.attention()
    except ValueError as error:
        attention = f"invalid: {error}"
    reference = {
        "active": setting is not None,
        "why": "serves every tensor (LDP_FAST_BACKEND=reference)"
        if setting == "reference"
        else "serves float64, and what neither Triton nor the extension serves on a CPU",
    }
    if setting is None:
        reference["why"] = "LDP_FAST_BACKEND is invalid"
    return {
        _settings.BACKEND_VARIABLE: shown,
        _settings.LANES_VARIABLE: lanes,
        _settings.ATTENTION_VARIABLE: attention,
        "reference": reference,
        "triton": triton(setting),
        "extension": extension(),
        "winograd": winograd(setting),
        "tinycudann": {
            "active": _installed("tinycudann"),
            "why": "installed"
            if _installed("tinycudann")
            else "not installed; optional: LatentField(backend='tcnn'), and a baseline of benchmarks",
        },
    }


def triton(setting: str | None) -> dict[str, Any]:
    """Whether the Triton kernels run, given the value of LDP_FAST_BACKEND (None if that is invalid)."""
    try:
        importlib.import_module("triton")
    except Exception as error:  # a broken installation may raise anything
        return {"active": False, "why": f"cannot be imported: {_line(error)}"}
    torch = _torch()
    if setting is None:
        return {"active": False, "why": "LDP_FAST_BACKEND is invalid"}
    if setting == "reference":
        return {"active": False, "why": "LDP_FAST_BACKEND=reference"}
    if _settings.interpreting():
        serves = "every tensor" if setting == "triton" else "CUDA tensors"
        active = setting == "triton" or bool(gpus())
        return {"active": active, "why": f"TRITON_INTERPRET=1: serves {serves} in the interpreter, for tests only"}
    if gpus():
        return {"active": True, "why": "serves CUDA tensors"}
    if torch is None:
        return {"active": False, "why": "torch is not installed"}
    reason = "torch is built without CUDA" if torch.version.cuda is None else "torch sees no CUDA device"
    return {"active": False, "why": f"no GPU: {reason}"}


def extension() -> dict[str, Any]:
    """Whether the compiled extension `ldp_fast._C` loads, what it was built with, and what it runs on each GPU."""
    if _torch() is None:
        return {"active": False, "why": "torch is not installed"}
    try:
        module = importlib.import_module("ldp_fast._C")
    except ModuleNotFoundError as error:
        why = "not built (LDP_FAST_EXT, see docs/installation.md)" if error.name == "ldp_fast._C" else _line(error)
        return {"active": False, "why": why}
    except ImportError as error:
        return {"active": False, "why": f"built, but does not load: {_line(error)}"}
    info = module.build_info()
    if info["cuda"] is None:
        return {"active": True, "why": "built without CUDA: serves the renderer on CPU tensors", "build": info}
    codes = [] if module.has_current_stream() or not gpus() else ["but torch's current CUDA stream is not found"]
    for index in range(len(gpus())):
        try:
            codes.append(f"GPU {index} runs sm_{module.device_code(index)['binary']}")
        except RuntimeError as error:
            codes.append(_line(error))
    built = f"built with CUDA {info['cuda']} for {', '.join(info['architectures'])}"
    return {"active": True, "why": "; ".join([built, *codes]), "build": info}


def winograd(setting: str | None) -> dict[str, Any]:
    """Whether the frozen decoder's convolutions on a CPU are the extension's, in which vectors, and why not."""
    torchs = "the frozen decoder's convolutions on a CPU are torch's"
    if setting in (None, "reference"):
        why = "LDP_FAST_BACKEND is invalid" if setting is None else "LDP_FAST_BACKEND=reference"
        return {"active": False, "why": f"{torchs}: {why}"}
    try:
        asked = _settings.lanes()
    except ValueError:
        return {"active": False, "why": f"{torchs}: {_settings.LANES_VARIABLE} is invalid"}
    try:
        convolutions = _settings.convolutions()
    except ValueError:
        return {"active": False, "why": f"{torchs}: {_settings.CONV_VARIABLE} is invalid"}
    if convolutions == "torch":
        return {"active": False, "why": f"{torchs}: {_settings.CONV_VARIABLE}=torch"}
    found = extension()
    if not found["active"]:
        return {"active": False, "why": f"{torchs}: the extension is {found['why']}"}
    module = importlib.import_module("ldp_fast._C")
    if not hasattr(module, "vector_lanes"):
        return {"active": False, "why": f"{torchs}: the extension is older than this package"}
    lanes = module.vector_lanes()
    name = {16: "AVX-512", 8: "AVX2"}.get(lanes, "plain vectors")
    where = " where that is faster" if convolutions == "auto" else ""
    why = (
        f"the frozen decoder's float32 convolutions on a CPU, channels in multiples of 16{where}; {name}, {lanes} lanes"
    )
    if asked != "auto":
        why += f" ({_settings.LANES_VARIABLE}={asked})"
    return {"active": True, "why": why}


USUAL = pathlib.Path("/usr/local/cuda")  # where NVIDIA's packages put a toolkit


def find_nvcc() -> str | None:
    """The CUDA compiler of CUDA_HOME, else the one on the PATH, else where packages put it, as for setup.py."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    found = (home and shutil.which("nvcc", path=str(pathlib.Path(home) / "bin"))) or shutil.which("nvcc")
    return found or shutil.which("nvcc", path=str(USUAL / "bin"))


def nvcc() -> str:
    """The CUDA compiler that a build would take: path and release."""
    path = find_nvcc()
    if path is None:
        return ABSENT
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path}, which does not run: {_line(error)}"
    release = re.search(r"release ([\d.]+)", text)
    return f"{path}, release {release[1] if release else 'unknown'}"


def models() -> dict[str, str]:
    """The embedded models and the size of their weights."""
    zoo = pathlib.Path(__file__).parent / "zoo"
    found = {}
    for index in sorted(zoo.glob("*/model_index.json")):
        size = sum(file.stat().st_size for file in index.parent.rglob("*.safetensors"))
        found[index.parent.name] = f"{size / 1e6:.1f} MB"
    return found or {"none": "ldp_fast/zoo does not hold a model"}


def _torch() -> Any:
    try:
        return importlib.import_module("torch")
    except Exception:  # a broken installation may raise anything, and is told by its absence
        return None


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _indented(content: Any, depth: int = 1) -> list[str]:
    pad = "  " * depth
    if isinstance(content, list):
        return [f"{pad}{i}: {', '.join(str(v) for v in item.values())}" for i, item in enumerate(content)]
    lines = []
    for key, value in content.items():
        if isinstance(value, dict) and "active" in value:
            lines.append(f"{pad}{key:<20}{'active' if value['active'] else 'not active'}: {value['why']}")
            if "build" in value:
                built = ", ".join(f"{k} {v}" for k, v in value["build"].items() if k not in ("cuda", "architectures"))
                lines.append(f"{pad}{'':<20}{built}")
        elif isinstance(value, (dict, list)):
            lines += [f"{pad}{key}", *(_indented(value, depth + 1) or [f"{pad}  none"])]
        else:
            lines.append(f"{pad}{key:<20}{value}")
    return lines
