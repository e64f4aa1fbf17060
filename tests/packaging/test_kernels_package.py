"""`ldp_fast.kernels` is importable from every kind of installation, and never stands in for the package `kernels`.

Hugging Face's `kernels` is imported by diffusers and transformers. Here a small stand-in of it is installed beside
ldp_fast, in environments of their own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import tomllib
from pathlib import Path

import pytest

from .installation import BUILD_TOOLS, ROOT, copy_checkout, install, make_environment, run, site_packages

RUNNER = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
CHECK = """
import importlib.metadata, kernels, ldp_fast, ldp_fast.kernels
assert kernels.get_kernel("owner/name") == "the hub's owner/name", kernels
assert importlib.metadata.version("kernels") == "99.0"
assert ldp_fast.kernels.__doc__.startswith("The Triton kernels")
"""


@pytest.fixture(scope="module", params=["regular", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An environment with ldp_fast and the stand-in: its Python, and the checkout it was installed from."""
    folder = tmp_path_factory.mktemp(request.param)
    checkout = copy_checkout(folder / "checkout")
    weights = checkout / "ldp_fast" / "zoo" / "primitives" / "unet"
    weights.mkdir(parents=True, exist_ok=True)
    (weights / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    (weights / "config.json").write_text("{}")
    python = make_environment(folder / "environment", (*BUILD_TOOLS, *RUNNER))
    packages = site_packages(python)
    (packages / "kernels").mkdir()
    (packages / "kernels" / "__init__.py").write_text('def get_kernel(name):\n    return f"the hub\'s {name}"\n')
    (packages / "kernels-99.0.dist-info").mkdir()
    (packages / "kernels-99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: kernels\nVersion: 99.0\n"
    )
    done = install(python, checkout, *(["--editable"] if request.param == "editable" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    return python, checkout


def test_from_another_folder(installed: tuple[Path, Path], tmp_path: Path) -> None:
    python, _ = installed
    done = run([str(python), "-c", CHECK], cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_from_the_repository_root(installed: tuple[Path, Path]) -> None:
    python, checkout = installed
    done = run([str(python), "-c", CHECK], cwd=checkout)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_under_pytest_from_the_repository_root(installed: tuple[Path, Path], mode: str) -> None:
    python, checkout = installed
    (checkout / "test_check.py").write_text("def test_check():\n" + "".join(f"    {x}\n" for x in CHECK.splitlines()))
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "-c", "/dev/null"]
    done = run([*command, f"--import-mode={mode}", "--rootdir", str(checkout), "test_check.py"], cwd=checkout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_installs_nothing_but_ldp_fast(installed: tuple[Path, Path]) -> None:
    python, _ = installed
    command = "import importlib.metadata as m; print(*m.distribution('ldp-fast').files, sep='\\n')"
    files = run([str(python), "-c", command], cwd=python.parent).stdout.split()
    assert files
    tops = {name.split("/")[0] for name in files}
    scripts = {"..", "__pycache__"}
    assert all(top in scripts or top.startswith(("ldp_fast", "__editable__")) for top in tops), tops


@pytest.mark.parametrize("installed", ["regular"], indirect=True)
def test_a_regular_installation_is_complete(installed: tuple[Path, Path]) -> None:
    python, checkout = installed
    packages = site_packages(python)
    found = {p.relative_to(packages) for p in packages.glob("ldp_fast/**/*") if p.is_file()}
    found = {p for p in found if p.suffix != ".pyc"}
    expected = {p.relative_to(checkout) for p in checkout.glob("ldp_fast/**/*.py")}
    expected |= {Path("ldp_fast/kernels") / p.name for p in (checkout / "kernels" / "ldp_kernels").glob("*.py")}
    for data in ("zoo/primitives", "guidance/clip", "clip/templates", "metrics/prompts"):
        expected |= {p.relative_to(checkout) for p in checkout.glob(f"ldp_fast/{data}/**/*") if p.is_file()}
    assert found == expected | {Path("ldp_fast/py.typed")}


def test_from_a_checkout_that_is_not_installed(tmp_path: Path) -> None:
    checkout = copy_checkout(tmp_path / "checkout")
    folder = str(checkout / "kernels" / "ldp_kernels")
    check = f"import ldp_fast.kernels as k; assert k.__path__ == [{folder!r}], k.__path__"
    done = run([sys.executable, "-S", "-c", check], cwd=checkout)
    assert done.returncode == 0, done.stderr


def test_without_the_hub_package_nobody_takes_the_folder_for_it() -> None:
    """In this process, which finds the folder as one that was started beside it does."""
    utils = pytest.importorskip("diffusers.utils")
    assert ROOT in {Path(entry).resolve() for entry in sys.path}
    try:
        importlib.metadata.version("kernels")
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec("kernels")
        assert spec is not None and spec.origin is None, spec
        assert not utils.is_kernels_available()


def test_the_folder_has_no_init() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_pyproject_lists_every_package() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    on_disk = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "ldp_fast").rglob("__init__.py")}
    assert set(listed) == on_disk | {"ldp_fast.kernels"}
    assert len(listed) == len(set(listed))
