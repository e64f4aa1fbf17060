"""What was meant by words that are not quite a command line: help, prompts without command or quotes, misspellings."""

from __future__ import annotations

import argparse
import sys
import types
from collections.abc import Callable

import pytest

from ldp_fast import _terminal, cli
from ldp_fast.apps import unquoted
from ldp_fast.errors import UsageError

from .installation import ROOT, run
from .test_cli import command, one_line


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, argparse.Namespace]]:
    """The two commands that take prompts only note what they were given; returns the notes."""
    notes: list[tuple[str, argparse.Namespace]] = []

    def noting(name: str) -> Callable[[argparse.Namespace], int]:
        return lambda args: notes.append((name, args)) or 0

    for name in ("text-to-3d", "synthesize"):
        module = types.ModuleType(f"noted_{name}")
        module.add_arguments = lambda parser: parser.add_argument("prompt") and parser.add_argument("--steps", type=int)
        module.run = noting(name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, name, (module.__name__, "note"))
    return notes


def answering(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, answer: str | None) -> list[str]:
    asked: list[str] = []
    monkeypatch.setattr(module, "ask", lambda question: asked.append(question) or answer)
    return asked


def test_the_package_is_the_command() -> None:
    done = run([sys.executable, "-m", "ldp_fast", "--version"], cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, command("--version").stdout)


def test_help_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help"]) == 0
    assert "commands:" in capsys.readouterr().out
    for words, prog in ((["env"], "env"), (["evaluate", "r-precision"], "evaluate r-precision")):
        with pytest.raises(SystemExit) as ended:
            cli.main(["help", *words])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: ldp-fast {prog} ")
    assert cli.main(["help", "sintesize"]) == 2
    assert "did you mean synthesize?" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("words", [["a red cube"], ["a", "red", "cube"]])
def test_a_prompt_without_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--steps", "3"]) == 2
    said = one_line(capsys.readouterr().err)
    for name in ("text-to-3d", "synthesize"):
        assert f'ldp-fast {name} "a red cube" --steps 3' in said


def test_at_a_terminal_it_is_asked_about(ran: list, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, cli, "i")
    assert cli.main(["a", "red", "cube", "--steps", "3"]) == 0
    ((name, args),) = ran
    assert (name, args.prompt, args.steps) == ("synthesize", "a red cube", 3)
    assert asked == ['"a red cube": a 3D object or an image? [3/i, Enter: neither]']
    answering(monkeypatch, cli, "3")
    assert cli.main(["a red cube"]) == 0 and ran[-1][0] == "text-to-3d"
    answering(monkeypatch, cli, "")
    assert cli.main(["a red cube"]) == 2 and len(ran) == 2


def test_a_question_needs_somebody(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _terminal.ask("there?") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["text-to-3d", "a red cube", "--setps", "3"], "unknown option --setps: did you mean --steps?"),
        (["text-to-3d", "a red cube", "--learning_rate", "3"], "did you mean --learning-rate?"),
        (["text-to-3d", "a red cube", "-steps", "3"], "did you mean --steps?"),
        (["sweep", "prompts.txt", "--otu", "x"], "unknown option --otu: did you mean --out?"),
        (["evaluate", "r-precision", "out", "--distractor=3", "--seedz", "1"], "did you mean --seeds?"),
        (["env", "--frobnicate"], "unknown option --frobnicate (see"),
        (["text-to-3d", "a", "red", "cube"], 'in quotes: ldp-fast text-to-3d "a red cube"'),
    ],
)
def test_what_is_misspelt(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert expected in one_line(capsys.readouterr().err)


def test_numbers_and_beginnings_are_not_misspelt(ran: list) -> None:
    assert cli.main(["text-to-3d", "a red cube", "--st", "-3"]) == 0
    assert ran[0][1].steps == -3
    assert cli.main(["text-to-3d", "--", "--setps"]) == 0
    assert ran[1][1].prompt == "--setps"


@pytest.mark.parametrize("name", ["synthesize", "ablate"])
def test_single_words_may_be_one_prompt(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([name, "a", "red", "cube", "--out", "nowhere/x"]) == 2
    said = one_line(capsys.readouterr().err)
    assert f'ldp-fast {name} "a red cube"' in said and "--each-word" in said
    asked = answering(monkeypatch, unquoted, "n")
    with pytest.raises(UsageError):
        unquoted.check_quotes(name, ["cube", "torus"], False)
    assert asked == ['2 prompts of one word each, and not "cube torus"? [y/N]']
    answering(monkeypatch, unquoted, "y")
    unquoted.check_quotes(name, ["cube", "torus"], False)


def test_prompts_with_spaces_are_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch, unquoted, "n")
    unquoted.check_quotes("synthesize", ["a red cube", "torus"], False)
    unquoted.check_quotes("synthesize", ["cube"], False)
    unquoted.check_quotes("synthesize", ["cube", "torus"], True)
    assert asked == []


def test_names_have_either_spelling(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml"), pytest.importorskip("pydantic")
    printed = []
    for method, weighting, guidance in (
        ("latent_nerf", "latent_nerf", "from_text"),
        ("latent-nerf", "latent-nerf", "from-text"),
    ):
        words = ["--method", method, "--preset", method, "--weighting", weighting, "--guidance", guidance]
        assert cli.main(["text_to_3d", "a red cube", *words, "--print-config", "--device", "cpu"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "method: latent-nerf" in printed[0] and "preset: latent_nerf" in printed[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sweep", "nothing.txt", "--out", "nowhere/x", "--application", "text_to_3d"], "nothing.txt: there is no"),
        (["evaluate", "r_precision", "nowhere/x"], "nowhere/x does not exist"),
        (["sweep", "nothing.txt", "--out", "nowhere/x", "--losses", "lsd_fm"], "nothing.txt: there is no"),
    ],
)
def test_names_that_are_not_fields(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("yaml")
    assert cli.main(words) == 2
    assert expected in one_line(capsys.readouterr().err)


def test_words_are_quoted_for_a_shell() -> None:
    assert _terminal.quoted(["a red cube", "--steps", "3"]) == '"a red cube" --steps 3'
    assert _terminal.quoted(["5 $ notes"]) == "'5 $ notes'"
