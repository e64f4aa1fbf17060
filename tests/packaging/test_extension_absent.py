"""Why the compiled renderer is not there, and that this is said once."""

from __future__ import annotations

import importlib.machinery
import os
import pathlib
import sys

import pytest

from ldp_fast import _extension, _settings, cli

from ..support import processes


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pathlib.Path:
    """The package is a folder without an extension, and Python finds none; returns the folder."""
    folder = tmp_path / "clone" / "ldp_fast"
    folder.mkdir(parents=True)
    monkeypatch.setattr(_extension, "PACKAGE", folder)
    monkeypatch.setattr(_extension.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", [str(folder.parent), str(tmp_path / "site")])
    monkeypatch.setattr(_extension.importlib.metadata, "distribution", none_installed)
    monkeypatch.setattr(_extension.shutil, "which", lambda name: "/usr/bin/c++")
    monkeypatch.delenv("LDP_FAST_EXT", raising=False)
    return folder


def none_installed(name: str) -> None:
    raise _extension.importlib.metadata.PackageNotFoundError(name)


def built(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"_C{importlib.machinery.EXTENSION_SUFFIXES[0]}").touch()


def test_the_source_folder_stands_in_front(absent: pathlib.Path, tmp_path: pathlib.Path) -> None:
    built(tmp_path / "site" / "ldp_fast")
    said = _extension.why_absent()
    assert said is not None and f"{absent.parent} stands in front" in said and str(tmp_path / "site") in said


def test_an_editable_installation_elsewhere(
    absent: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str:
            return f'{{"url": "{(tmp_path / "other").as_uri()}", "dir_info": {{"editable": true}}}}'

    monkeypatch.setattr(_extension.importlib.metadata, "distribution", lambda name: Distribution())
    built(tmp_path / "other" / "ldp_fast")
    assert str(tmp_path / "other") in str(_extension.why_absent())


def test_other_reasons(absent: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "was not built at installation" in str(_extension.why_absent())
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(_extension.shutil, "which", lambda name: None)
    assert "no C++ compiler" in str(_extension.why_absent())
    monkeypatch.setenv("LDP_FAST_EXT", "0")
    assert "LDP_FAST_EXT=0" in str(_extension.why_absent())
    (absent / "_C.cpython-39-x86_64-linux-gnu.so").touch()
    assert "another Python" in str(_extension.why_absent())


def test_said_once(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "ldp_fast"
    monkeypatch.setattr(_extension, "why_absent", lambda: None)
    for said in ("ldp-fast: first run: the compiled renderer is there (ldp-fast env says more)\n", ""):
        _extension.say_once(cache)
        assert capsys.readouterr().err == said
    monkeypatch.setattr(_extension, "why_absent", lambda: "for a reason")
    _extension.say_once(tmp_path / "other")
    assert "is missing, so that latent-nerf cannot run: for a reason" in capsys.readouterr().err
    (tmp_path / "file").touch()
    _extension.say_once(tmp_path / "file")
    assert capsys.readouterr().err == ""


def typed(*words: str) -> int:
    """`ldp-fast WORDS`; for a process of its own."""
    sys.argv[1:] = words
    return cli.main()


def test_the_first_run_of_the_command(tmp_path: pathlib.Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LDP_FAST_")}

    def said(*words: str) -> int:
        done = processes.Started(typed, *words, environment={**environment, "XDG_CACHE_HOME": str(tmp_path)}).wait()
        assert done.code == (2 if words == failing else 0), done.err
        return done.err.count("first run: the compiled renderer")

    failing = ("evaluate", "r-precision", str(tmp_path / "nothing"))
    lines = (("env",), ("evaluate", "--help"), failing, failing)
    assert [said(*words) for words in lines] == [0, 0, 1, 0]
    assert [path.parent.name for path in tmp_path.rglob("renderer-*")] == ["ldp_fast"]


def test_where_it_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("LDP_FAST_CACHE", str(tmp_path))
    assert _settings.cache_folder() == tmp_path
    monkeypatch.delenv("LDP_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _settings.cache_folder() == tmp_path / "ldp_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert _settings.cache_folder().is_absolute()
