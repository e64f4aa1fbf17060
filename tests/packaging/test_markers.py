"""Markers are defined in one place, and `slow` means one thing: run once, and not where tests are run again."""

from __future__ import annotations

import re
import tomllib

from .installation import ROOT

MAKEFILE = (ROOT / "Makefile").read_text()
DEFINED = {
    line.split(":")[0]
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
}
PLUGINS_OWN = {"benchmark", "parametrize", "skipif", "skip", "usefixtures", "filterwarnings", "timeout"}


def passes() -> list[str]:
    """The commands of `make test` that run pytest, with their variables expanded."""
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    numbers = re.search(r"^NUMBERS := ((?:.*\\\n)*.*)", MAKEFILE, re.MULTILINE)
    assert recipe and numbers
    return [line.replace("$(NUMBERS)", numbers[1]) for line in recipe[1].splitlines() if "$(PYTEST)" in line]


def test_markers_are_defined_in_one_place() -> None:
    sources = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    texts = {path: path.read_text() for path in sources}
    used = {name for text in texts.values() for name in re.findall(r"pytest\.mark\.(\w+)", text)}
    assert {"slow", "gpu"} <= DEFINED and used <= DEFINED | PLUGINS_OWN
    elsewhere = re.compile(r"addinivalue_line\(\s*[\"']markers")
    assert [path for path, text in texts.items() if elsewhere.search(text)] == []


def test_slow_tests_run_once() -> None:
    first, *again = passes()
    assert first.strip() == "$(PYTEST)" and len(again) >= 3
    assert all('-m "not slow"' in command for command in again)
    assert '-m "not slow"' in (ROOT / ".ci" / "versions").read_text()
