"""The source distribution: it holds what an installation needs, and no module without what it imports."""

from __future__ import annotations

import ast
import json
import shutil
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from .installation import ROOT, run

# What belongs to a checkout alone, or is made in it.
ELSEWHERE = ("out", "build", "dist", ".*", "__pycache__", "*.so", "*.egg-info", "*.pyc")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a copy of this checkout, made without torch's build, and unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*ELSEWHERE))
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--formats=tar", "--dist-dir", str(folder)]
    done = run(command, cwd=checkout, LDP_FAST_EXT="0")
    assert done.returncode == 0, done.stdout + done.stderr
    (archive,) = folder.glob("*.tar")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.stem


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_holds_every_source_and_every_datum(unpacked: Path) -> None:
    found, missing = held(unpacked), []
    for top in ("ldp_fast", "kernels", "csrc"):
        for path in (ROOT / top).rglob("*"):
            made = path.suffix in (".so", ".pyd", ".pyc") or "__pycache__" in path.parts
            if path.is_file() and not made and path.relative_to(ROOT).as_posix() not in found:
                missing.append(path.relative_to(ROOT).as_posix())
    assert not missing
    assert {"setup.py", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md", "PKG-INFO"} <= found


def unresolved(folder: Path) -> list[str]:
    """Relative imports of modules in a folder that lead to nothing in it."""
    names = {name.replace("kernels/ldp_kernels/", "ldp_fast/kernels/") for name in held(folder)}
    known = {PurePosixPath(name) for name in names | {"ldp_fast/_C.py"}}  # the extension is built later
    known |= {parent for path in known for parent in path.parents}
    found = []
    for path in folder.rglob("*.py"):
        place = PurePosixPath(path.relative_to(folder).as_posix().replace("kernels/ldp_kernels/", "ldp_fast/kernels/"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = place.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            # What is imported from a module is its own; from a package it may be a module of it.
            targets = [base] if node.module else [base / alias.name for alias in node.names]
            for target in targets:
                attribute = not node.module and base / "__init__.py" in known
                if not attribute and target not in known and target.with_name(f"{target.name}.py") not in known:
                    found.append(f"{place}:{node.lineno}: {target}")
    return found


def test_no_module_is_without_what_it_imports(unpacked: Path) -> None:
    assert not unresolved(unpacked)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in held(unpacked))


def test_what_is_without_its_helpers_is_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text("from .models import small\nfrom . import other\nimport os\n")
    assert unresolved(tmp_path) == ["tests/test_it.py:1: tests/models", "tests/test_it.py:2: tests/other"]
    for name in ("models", "other"):
        (tmp_path / "tests" / f"{name}.py").touch()
    assert not unresolved(tmp_path)


def test_it_installs_and_knows_its_model(unpacked: Path, tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path / "lib")]
    done = run(command, cwd=unpacked, LDP_FAST_EXT="0")
    assert done.returncode == 0, done.stdout + done.stderr
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'lib')!r}); import ldp_fast, ldp_fast.cli, ldp_fast.kernels\n"
        "assert ldp_fast.__file__.startswith(sys.path[0]), ldp_fast.__file__\n"
        "import ldp_fast.apps.synthesis.command, ldp_fast.apps.text_to_3d.command, ldp_fast.integrations\n"
        "sys.exit(ldp_fast.cli.main(['env', '--json']))"
    )
    done = run([sys.executable, "-c", code], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"]["primitives"].endswith(" MB")
    data = {p.relative_to(ROOT).as_posix() for p in (ROOT / "ldp_fast").rglob("*.*") if p.suffix in (".json", ".txt")}
    assert data and data <= held(tmp_path / "lib")
