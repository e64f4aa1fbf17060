"""Where applications are found: modules of the folder where a command is typed, and entry points of packages."""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from collections.abc import Iterator

import pytest

from ldp_fast.apps import registry
from ldp_fast.errors import UsageError

# An application of which nothing but its name matters here.
MODULE = """
from ldp_fast.apps.entry import Entry
from ldp_fast.runs.experiment import Application

class Made:
    ENTRY = Entry(Application({name!r}, dict, dict, "result", {{}}), print, print)

ENTRY = Made.ENTRY
"""


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """The folder where it is typed; afterwards nothing of it is known any more."""
    (tmp_path / "site").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    monkeypatch.setattr(registry, "_found", {})
    registry._by_application.cache_clear()
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if not name.startswith("ldp_fast"):
            del sys.modules[name]
    registry._by_application.cache_clear()


def install(here: pathlib.Path, package: str, points: str, **modules: str) -> None:
    """A package with entry points, as pip leaves it."""
    info = here / "site" / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for name, text in modules.items():
        (here / "site" / f"{name}.py").write_text(text)
    importlib.invalidate_caches()


def a_run(folder: pathlib.Path, application: str) -> pathlib.Path:
    folder.mkdir()
    record = {"application": application, "status": "finished", "versions": {"ldp-fast": "1"}}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def refused(name: str) -> str:
    with pytest.raises(UsageError) as raised:
        registry.find(name)
    return str(raised.value)


@pytest.mark.parametrize("name", ["code", "json", "time", "pytest", "site"])
def test_a_module_that_python_takes_elsewhere_is_refused(name: str, here: pathlib.Path) -> None:
    (here / f"{name}.py").write_text(MODULE.format(name="mine"))
    held = sys.modules.get(name)
    assert f"application: {name}.py is not what Python imports as {name}, which is" in refused(f"{name}:ENTRY")
    assert sys.modules.get(name) is held


def test_a_folder_without_modules_hides_nothing(here: pathlib.Path) -> None:
    (here / "json").mkdir()
    assert "module 'json' has no attribute 'ENTRY'" in refused("json:ENTRY")


def test_modules_packages_and_attributes_of_this_folder(here: pathlib.Path) -> None:
    (here / "folders_one.py").write_text(MODULE.format(name="one"))
    (here / "folders_two").mkdir()
    (here / "folders_two" / "__init__.py").write_text("")
    (here / "folders_two" / "inner.py").write_text(MODULE.format(name="two"))
    assert registry.find("folders_one:ENTRY").application.name == "one"
    found = registry.find("folders_two.inner:Made.ENTRY").application
    assert found.name == "two" and found.resume(here) == f"ldp-fast run folders_two.inner:Made.ENTRY --resume {here}"
    assert refused("folders_one").endswith("or MODULE:NAME; got 'folders_one': did you mean folders_one:ENTRY?")


@pytest.mark.parametrize("place", [":ENTRY", "folders_one:", ".:ENTRY", "./folders_one:ENTRY", "folders_one.py:ENTRY"])
def test_what_is_not_a_module_and_a_name(place: str, here: pathlib.Path) -> None:
    (here / "folders_one.py").write_text(MODULE.format(name="one"))
    said = "application: expected MODULE:NAME, the module as Python imports it, such as pixel_art:ENTRY or "
    assert said in refused(place) and refused(place).endswith(f"got {place!r}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\nsys.exit(3)", "it ends Python (SystemExit: 3); what it does as a program belongs below"),
        ("class Odd(BaseException): ...\nraise Odd('odd')", "odd"),
        ("raise KeyError('a')", "KeyError: 'a'"),
        ("ENTRY = 5", "to be an Entry of ldp_fast.apps.entry, as ldp_fast.apps.own.entry_of makes one; got a value of"),
    ],
)
def test_whatever_a_module_does_is_one_sentence(text: str, said: str, here: pathlib.Path) -> None:
    (here / "folders_odd.py").write_text(text)
    assert said in refused("folders_odd:ENTRY")


def test_an_interruption_while_it_is_imported_is_one(here: pathlib.Path) -> None:
    (here / "folders_slow.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        registry.find("folders_slow:ENTRY")


def test_entry_points_of_packages(here: pathlib.Path) -> None:
    group = f"[{registry.ENTRY_POINTS}]\n"
    install(here, "whole", f"{group}whole = whole_one:Made.ENTRY [fast]\n", whole_one=MODULE.format(name="one"))
    install(here, "broken", f"{group}broken = broken_one:ENTRY\n", broken_one="raise SystemExit('no licence')")
    install(here, "first", f"{group}twice = whole_one:ENTRY\n")
    install(here, "second", f"{group}twice = nowhere:ENTRY\n")
    install(here, "ours", f"{group}text_to_3d = nowhere:ENTRY\n")
    assert registry.names() == ("text-to-3d", "synthesize", "clip-mesh", "adapt", "broken", "twice", "whole")
    found = registry.find("whole").application
    assert found.name == "one" and found.resume(here) == f"ldp-fast run whole --resume {here}"
    assert "application: broken of the package broken, broken_one:ENTRY, cannot be imported" in refused("broken")
    said = refused("twice")
    assert said.startswith("application: twice is in first (whole_one:ENTRY) and second (nowhere:ENTRY): say which")
    # Metadata that cannot be read at all, of whatever package, leave the others.
    install(here, "unreadable", f"{group}a line without a value\n")
    assert "whole" in registry.names() and registry.find("whole").application.name == "one"


def test_a_folder_whose_application_has_another_name_than_its_entry_point(here: pathlib.Path) -> None:
    group = f"[{registry.ENTRY_POINTS}]\n"
    count = "import builtins; builtins.imported = getattr(builtins, 'imported', 0) + 1"
    install(here, "broken", f"{group}broken = broken_one:ENTRY\n", broken_one=f"{count}\nraise SystemExit")
    install(here, "other", f"{group}other = other_one:ENTRY\n", other_one=MODULE.format(name="inner"))
    try:
        # What bears its name is enough, and nothing else is imported.
        install(here, "same", f"{group}same = same_one:ENTRY\n", same_one=MODULE.format(name="same"))
        entry = registry.of_folder(a_run(here / "c", "same"))
        assert entry is not None and entry.application.name == "same"
        assert "other_one" not in sys.modules
        entry = registry.of_folder(a_run(here / "a", "inner"))
        assert entry is not None and entry.application.resume(here) == f"ldp-fast run other --resume {here}"
        for name in ("b", "bb"):
            assert registry.of_folder(a_run(here / name, "somebody-elses")) is None
        assert importlib.import_module("builtins").imported == 1
    finally:
        del importlib.import_module("builtins").imported
    registry._by_application.cache_clear()
    install(here, "another", f"{group}another = other_one:ENTRY\n")
    registry._found.clear()
    with pytest.raises(UsageError, match="a holds a run of inner, as another and other are called: say which, with"):
        registry.of_folder(here / "a")
