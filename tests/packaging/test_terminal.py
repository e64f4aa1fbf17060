"""Terminals that cannot show everything: whatever a command says is printed, and nobody else's streams are changed."""

from __future__ import annotations

import io
import pathlib
import sys
from typing import NamedTuple

import pytest

from ldp_fast import _terminal, cli

from ..support.models import save_stable_diffusion
from .installation import ROOT, run

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
# As `ldp-fast WORDS` for the words up to each ";", in one process: importing torch takes longer than everything else.
EVERY = """
import itertools, sys
from ldp_fast import cli
for between, words in itertools.groupby(sys.argv[1:], ";".__eq__):
    if between:
        continue
    sys.argv[1:] = words
    try:
        code = cli.main()
    except SystemExit as stop:
        code = stop.code
    for stream in (sys.stdout, sys.stderr):
        print("code", code, file=stream, flush=True)
"""
METRICS = [
    ["evaluate", name, "--help"] for name in ("r-precision", "clip-score", "fid", "kid", "lpips", "colour", "truth")
]
ASKED = [["--help"], *([name, "--help"] for name in cli.COMMANDS), *METRICS, ["env"]]


class Said(NamedTuple):
    """What was written to both streams, a string for each command, and the folder of the run."""

    out: list[str]
    err: list[str]
    folder: pathlib.Path


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Said:
    """Every help, what is installed here, and last a run whose prompt is not ASCII."""
    folder = tmp_path_factory.mktemp("terminal")
    model = save_stable_diffusion(folder / "sd")
    words = ["synthesize", "abc 一", "--model", str(model), "--device", "cpu", "--steps", "2"]
    line = [word for asked in (*ASKED, words) for word in (*asked, ";")]
    done = run([sys.executable, "-c", EVERY, *line], cwd=folder, **ASCII, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    out, err = done.stdout.split("code 0\n"), done.stderr.split("code 0\n")
    assert len(out) == len(err) == len(ASKED) + 2 and out.pop() == err.pop() == "", done.stderr
    return Said(out, err, folder)


def test_every_help_prints_on_an_ascii_terminal(said: Said) -> None:
    answers = "".join(said.out[:-1])
    assert not any(said.err[:-1]) and answers.isascii()
    for name in cli.COMMANDS:
        assert f"usage: ldp-fast {name} [options]" in answers
    assert "cuda:1, ..." in answers and "\\u" not in answers, "what is said in words of ours has a plain form"


def test_errors_name_what_was_typed() -> None:
    done = run([sys.executable, "-m", "ldp_fast.cli", "一个红色的球"], cwd=ROOT, **ASCII)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("ldp-fast: error: unknown command '") and done.stderr.count("\n") == 1


def test_a_run_on_an_ascii_terminal(said: Said) -> None:
    """Progress, the folder's name, the record: the prompt's bytes come as lone surrogates here."""
    (folder,) = (said.folder / "out").iterdir()
    assert folder.name.startswith("abc-") and (folder / "image.png").exists()
    assert "abc 一" in (folder / "config.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", b"lambda1*x^2 >= 3..., \\u7403, caf\\xe9, \xff"),
        ("latin-1", b"lambda1\xb7x\xb2 >= 3..., \\u7403, caf\xe9, \xff"),
        ("utf-8", "λ1·x² ≥ 3…, 球, café, ".encode() + b"\xff"),
    ],
)
def test_what_cannot_be_shown(encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    _terminal.make_printable()
    print("λ1·x² ≥ 3…, 球, café, \udcff", end="", flush=True)
    monkeypatch.undo()
    assert raw.getvalue() == shown


def test_a_host_keeps_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    codes = cli.main(["--version"]), cli.main(["nothing"])
    monkeypatch.undo()
    assert codes == (0, 2) and [stream.errors for stream in streams] == ["strict", "strict"]
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    _terminal.make_printable()
