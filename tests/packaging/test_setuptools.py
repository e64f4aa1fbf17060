"""An installation without build isolation takes the setuptools that is there; one that is too old is told so."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from .installation import ROOT, run

BUILD = """
import runpy, sys, setuptools
setuptools.__version__ = {version!r}
setuptools.setup = lambda **arguments: print("set up")
sys.argv = ["setup.py", "egg_info"]
runpy.run_path("setup.py", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("version", "accepted"), [("70.0.0", False), ("76.1.0", False), ("77.0.1", True), ("85.2", True)]
)
def test_an_old_setuptools_is_named(version: str, accepted: bool) -> None:
    done = run([sys.executable, "-c", BUILD.format(version=version)], cwd=ROOT)
    assert (done.returncode == 0 and "set up" in done.stdout) == accepted
    if not accepted:
        said = f"ldp-fast: expected setuptools>=77, got {version}: first run pip install 'setuptools>=77' ninja\n"
        assert done.stderr == said


def test_it_is_the_bound_of_pyproject() -> None:
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    (oldest,) = re.findall(r"^OLDEST_SETUPTOOLS = (\d+)", (ROOT / "setup.py").read_text(), flags=re.MULTILINE)
    assert f"setuptools>={oldest}" in requires


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_pages_say_it_before_they_install(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert 0 <= text.find('pip install "setuptools>=77" ninja') < text.index("--no-build-isolation")
