"""Installs a copy of this checkout into throw-away environments; the developer's own is never touched."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_TOOLS = ("setuptools", "wheel", "packaging")


def copy_checkout(target: Path) -> Path:
    """Copies what an installation reads, without the embedded model's weights, and returns the copy."""
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "*.safetensors")
    for name in ("csrc", "kernels", "ldp_fast"):
        shutil.copytree(ROOT / name, target / name, ignore=ignore)
    return target


def refresh(target: Path, source: Path) -> None:
    """Makes a copy of a checkout like another one; files that are the same stay as old as they are.

    What a build has put there (`build`) stays too.
    """
    for path in [x for x in target.rglob("*") if x.is_file() and x.relative_to(target).parts[0] != "build"]:
        if not (source / path.relative_to(target)).is_file():
            path.unlink()
    for path in [x for x in source.rglob("*") if x.is_file()]:
        own = target / path.relative_to(source)
        if not own.is_file() or own.read_bytes() != path.read_bytes():
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, own)


def make_environment(folder: Path, distributions: Iterable[str] = BUILD_TOOLS) -> Path:
    """Makes a virtual environment that sees only some of this environment's distributions; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = site_packages(python)
    for name in distributions:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # `wheel` is needed by old versions of setuptools only
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            source = Path(str(distribution.locate_file(top)))
            if source.suffix != ".pth" and not (packages / top).exists():
                (packages / top).symlink_to(source)
    return python


def site_packages(python: Path) -> Path:
    """The folder that packages are installed into."""
    command = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([str(python), "-c", command], check=True, capture_output=True, text=True).stdout.strip())


def install(python: Path, checkout: Path, *flags: str, **switches: str) -> subprocess.CompletedProcess[str]:
    """`pip install --no-build-isolation --no-deps CHECKOUT` into another environment, offline."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--disable-pip-version-check", *flags, str(checkout)]
    return run(command, cwd=checkout, **{"LDP_FAST_EXT": "0", "LDP_FAST_CUDA": "0", **switches})


def run(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with captured output, without the variables that would lead Python or the build astray."""
    astray = ("PYTHONPATH", "PYTHONHOME", "TRITON_INTERPRET", "LDP_FAST_", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(astray)}
    return subprocess.run(
        command, cwd=cwd, env={**environment, **variables}, capture_output=True, text=True, timeout=1200
    )
