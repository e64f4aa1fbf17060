"""The frame of the command line: help, version, and what the user can mend as one line and exit code 2."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import ldp_fast
from ldp_fast import cli
from ldp_fast.errors import UsageError

from .installation import ROOT, run


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "ldp_fast.cli", *arguments], cwd=ROOT, **variables)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[argparse.Namespace], int]], None]:
    """Adds the command `fake`, which runs the given function."""

    def add(function: Callable[[argparse.Namespace], int]) -> None:
        module = types.ModuleType("fake_command")
        module.add_arguments = lambda parser: parser.add_argument("--steps", type=int, default=7, help="how many")
        module.run = function
        monkeypatch.setitem(sys.modules, "fake_command", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", ("fake_command", "do nothing"))

    return add


def one_line(text: str) -> str:
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert "Traceback" not in text
    return text.strip()


def test_help_names_every_command_and_imports_none(tmp_path: Path) -> None:
    code = "import sys; from ldp_fast.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    done = run([sys.executable, "-c", code], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for name, (_, summary) in cli.COMMANDS.items():
        assert f"  {name} " in done.stdout and summary in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_version() -> None:
    done = command("--version")
    assert (done.returncode, done.stdout) == (0, f"ldp-fast {ldp_fast.__version__}\n")


def test_no_command_is_help_and_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("synthesise", "did you mean synthesize?"),
        ("envv", "did you mean env?"),
        ("a red cube", 'ldp-fast synthesize "a red cube" makes an image'),
        ("--verbose", "unknown option '--verbose'"),
    ],
)
def test_a_mistyped_command(word: str, expected: str) -> None:
    done = command(word)
    assert done.returncode == 2 and done.stdout == ""
    assert expected in one_line(done.stderr)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        cli.main([name, "--help"])
    text = capsys.readouterr().out
    assert exit.value.code == 0
    assert text.startswith(f"usage: ldp-fast {name} [options]") and "examples:" in text
    assert "(default: None)" not in text and "(default: False)" not in text


def test_help_states_defaults(fake: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda args: 0)
    with pytest.raises(SystemExit):
        cli.main(["fake", "--help"])
    assert "how many (default: 7)" in capsys.readouterr().out


def test_the_commands_exit_code_is_returned(fake: Callable) -> None:
    fake(lambda args: args.steps)
    assert cli.main(["fake", "--steps", "5"]) == 5


def test_a_wrong_option_is_one_line(fake: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    fake(lambda args: 0)
    assert cli.main(["fake", "--steps", "many"]) == 2
    assert "see ldp-fast fake --help" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UsageError("preset: expected one of a, b;\n got 'c'"), "preset: expected one of a, b; got 'c'"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), "no such file or directory: a.png"),
        (PermissionError(13, "Permission denied", "/srv/x"), "permission denied: /srv/x"),
        (FileExistsError(17, "File exists", "out"), "file exists: out"),
        (ModuleNotFoundError("No module named 'diffusers'", name="diffusers"), "pip install 'ldp-fast[diffusers]'"),
        (ModuleNotFoundError("No module named 'PIL.Image'", name="PIL.Image"), "pip install 'ldp-fast[apps]'"),
    ],
)
def test_what_the_user_can_mend(
    fake: Callable, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    fake(fail)
    monkeypatch.delenv("LDP_FAST_DEBUG", raising=False)
    assert cli.main(["fake"]) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith("ldp-fast: error: ") and expected in line
    monkeypatch.setenv("LDP_FAST_DEBUG", "1")
    with pytest.raises(type(error)):
        cli.main(["fake"])


@pytest.mark.parametrize(
    "error", [RuntimeError("a fault"), ValueError("a fault"), ModuleNotFoundError("ours", name="ldp_fast.nothing")]
)
def test_a_fault_of_ours_keeps_its_traceback(fake: Callable, error: Exception) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error

    fake(fail)
    with pytest.raises(type(error)):
        cli.main(["fake"])


def test_ctrl_c(fake: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    fake(interrupt)
    assert cli.main(["fake"]) == 130
    assert one_line(capsys.readouterr().err) == "ldp-fast: interrupted"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("LDP_FAST_BACKEND", "cuda", "auto, reference, triton"),
        ("LDP_FAST_LANES", "12", "auto, 4, 8, 16"),
        ("LDP_FAST_CONV", "direct", "auto, winograd, torch"),
        ("LDP_FAST_ATTENTION", "flash", "auto, sdpa, plain"),
    ],
)
def test_an_invalid_setting_is_one_line(
    fake: Callable,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    variable: str,
    value: str,
    expected: str,
) -> None:
    fake(lambda args: 0)
    monkeypatch.setenv(variable, value)
    assert cli.main(["fake"]) == 2
    assert f"{variable}: expected one of {expected}, got '{value}'" in one_line(capsys.readouterr().err)


def test_env_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["env", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["versions"]["ldp_fast"] == ldp_fast.__version__


def test_extras_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(cli.EXTRAS.values()) <= extras.keys()
