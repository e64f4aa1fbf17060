"""A Python whose torch can use the GPU, and what else the GPU tests and benchmarks need.

    python -m benchmarks.gpu.environment                 # says which Python is taken, and what is missing
    python -m benchmarks.gpu.environment --download DIR  # wheels for a machine without a package index

A machine that is lent for half an hour has torch, Triton and transformers and no package index. Nothing of it is
changed: packages go into an environment of our own, .venv-gpu, which sees those of the Python it was made from.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ROOT / "wheels"
# Needed by what `make gpu` runs; by their names at the package index.
NEEDED = (
    "diffusers>=0.35",
    "transformers>=4.56",
    "accelerate>=1.0",
    "safetensors>=0.4.3",
    "numpy",
    "pillow",
    "tqdm",
    "pyyaml",
    "matplotlib",
    "pytest>=8",
    "pytest-benchmark",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "ninja",
    "setuptools>=77",
    "wheel",
)
# What a machine with torch and transformers may lack of these, and what they want themselves.
CARRIED = ("diffusers", "importlib-metadata", "zipp", "accelerate", "pytest", "iniconfig", "pluggy", "pytest-timeout")
CARRIED += ("pytest-benchmark", "py-cpuinfo2", "pytest-xdist", "execnet", "hypothesis", "sortedcontainers")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (17, 24, 27, 28, 31, 34)] + ["manylinux2014_x86_64"]

PROBE = """
import importlib.metadata, json, os, re, site, sys, sysconfig
found = {"executable": sys.executable, "torch": None, "why": "", "missing": []}
folders = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
folders += site.getsitepackages() if hasattr(site, "getsitepackages") else []
folders += [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
# And what .pth files and PYTHONPATH have put beside them: whatever this Python finds packages in.
folders += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
found["packages"] = [path for path in dict.fromkeys(folders) if os.path.isdir(path)]
try:
    import torch
    found["torch"], found["cuda"] = torch.__version__, torch.version.cuda
    found["gpu"] = torch.cuda.is_available()
    if found["gpu"]:
        found["capability"] = "{}.{}".format(*torch.cuda.get_device_capability())
        found["name"] = torch.cuda.get_device_name()
except Exception as error:
    found["why"] = f"{type(error).__name__}: {error}"
def numbers(version):
    return [int(n) for n in re.findall(r"\\d+", version)[:3]]
for line in sys.argv[1:]:
    name, _, least = line.partition(">=")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found["missing"].append(line)
        continue
    if least and numbers(version) < numbers(least):
        found["missing"].append(line)
print("PROBE" + json.dumps(found))
"""


class Unusable(Exception):
    """No Python here can use a GPU; says why."""


def probe(python: str | Path, needed: Sequence[str] = NEEDED) -> dict[str, Any] | None:
    """What a Python has: `torch`, `cuda`, `gpu`, `capability`, `missing`, `packages`; None if it does not run."""
    command = [str(python), "-c", PROBE, *needed]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return None
    line = next((text for text in reversed(done.stdout.splitlines()) if text.startswith("PROBE")), None)
    return json.loads(line.removeprefix("PROBE")) if line else None


def choose(candidates: list[Path | str]) -> tuple[str, dict[str, Any]]:
    """The first Python whose torch sees a GPU.

    Raises:
        Unusable: none does.
    """
    said = []
    for python in candidates:
        found = probe(python)
        if found is None:
            said.append(f"{python} does not run")
        elif found["torch"] is None:
            said.append(
                f"{python} has no torch" + (f" ({found['why']})" if "No module" not in str(found["why"]) else "")
            )
        elif not found.get("gpu"):
            said.append(f"{python}: torch {found['torch']}, CUDA {found['cuda']}, sees no GPU")
        else:
            return str(found["executable"]), found
    raise Unusable("make gpu: expected a CUDA device that torch can use, found none: " + "; ".join(said))


def overlay(python: str, packages: list[str], folder: Path) -> Path:
    """An environment that sees another's packages and gets its own; returns its Python."""
    inner = folder / "bin" / "python"
    site = next(iter((folder / "lib").glob("python*/site-packages")), None)
    if site is None or not inner.exists():
        # --clear: one may lie there half made.
        subprocess.run([python, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True, timeout=60)
        site = next((folder / "lib").glob("python*/site-packages"))
    # Lines of a .pth file that are folders are put behind this environment's own packages.
    (site / "beneath.pth").write_text("\n".join(packages) + "\n")
    return inner


def install(python: Path, missing: list[str], wheels: Path, seconds: float = 600.0) -> list[str]:
    """Installs packages from a folder of wheels, else from the index that pip knows; returns what is still missing.

    After so many seconds no further package is begun, and the one that is under way is given up.
    """
    end = time.monotonic() + seconds

    def pip(*words: str) -> None:
        left = end - time.monotonic()
        if left > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run([*command, *words], capture_output=True, timeout=left)

    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if wheels.is_dir():
        absent = probe(python, [name_of(wheel) for wheel in wheels.glob("*.whl")])
        for name in dict.fromkeys([*missing, *(absent["missing"] if absent else [])]):
            pip("--no-index", "--no-deps", "--find-links", str(wheels), name)
    for requirement in (probe(python) or {"missing": missing})["missing"]:
        # Given up at once where there is no network: the minutes are for something else.
        pip("--retries", "0", "--timeout", "5", requirement)
    found = probe(python)
    return found["missing"] if found else missing


def name_of(wheel: Path) -> str:
    """The package that is in a wheel."""
    return re.sub(r"[-_.]+", "-", wheel.name.split("-")[0]).lower()


def download(folder: Path, python_version: str) -> int:
    """`make gpu-offline`: wheels of what a bare machine with torch and transformers may lack, for Linux on x86-64."""
    folder.mkdir(parents=True, exist_ok=True)
    target = ["--only-binary=:all:", "--python-version", python_version, "--implementation", "cp"]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    failed = [name for name in CARRIED if subprocess.run([*pip, *target, "-d", str(folder), name]).returncode]
    newest: dict[str, Path] = {}
    for wheel in sorted(folder.glob("*.whl"), key=lambda path: path.stat().st_mtime):
        name = name_of(wheel)
        if name in newest:
            newest[name].unlink()  # two versions of a package stop an installation
        newest[name] = wheel
    size = sum(wheel.stat().st_size for wheel in newest.values())
    print(
        f"{len(newest)} wheels, {size / 1e6:.1f} MB, in {os.path.relpath(folder)}: carry that folder with the checkout"
    )
    if failed:
        print(f"not found: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--download", type=Path, metavar="DIR", help="download the wheels into a folder")
    parser.add_argument(
        "--python-version", default="3.12", help="Python of the machine that they are for (default: 3.12)"
    )
    options = parser.parse_args(arguments)
    if options.download is not None:
        return download(options.download, options.python_version)
    try:
        python, found = choose([sys.executable])
    except Unusable as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{python}: torch {found['torch']}, {found['name']}; missing: {found['missing'] or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
