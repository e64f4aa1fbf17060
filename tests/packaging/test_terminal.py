"""Terminals that cannot show everything: whatever a command says is printed, and nobody else's streams are changed."""

from __future__ import annotations

import io
import json
import pathlib
import sys

import pytest

from ldp_fast import _terminal, cli

from ..support.models import save_stable_diffusion
from .installation import ROOT, run

ASCII = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
# As `ldp-fast WORDS` for each line, in one process: importing torch takes longer than everything else here.
EVERY = """
import json, sys
from ldp_fast import cli
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        code = cli.main()
    except SystemExit as stop:
        code = stop.code
    print("code", code, flush=True)
"""


def test_every_help_prints_on_an_ascii_terminal() -> None:
    words = [["--help"], *([name, "--help"] for name in cli.COMMANDS), ["evaluate", "r-precision", "--help"], ["env"]]
    done = run([sys.executable, "-c", EVERY, json.dumps(words)], cwd=ROOT, **ASCII)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.count("code 0") == len(words) and done.stdout.isascii()
    for name in cli.COMMANDS:
        assert f"usage: ldp-fast {name} [options]" in done.stdout
    assert "cuda:1, ..." in done.stdout and "\\u" not in done.stdout, "what is said in words of ours has a plain form"


def test_errors_name_what_was_typed() -> None:
    done = run([sys.executable, "-m", "ldp_fast.cli", "一个红色的球"], cwd=ROOT, **ASCII)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("ldp-fast: error: unknown command '") and done.stderr.count("\n") == 1


def test_a_run_on_an_ascii_terminal(tmp_path: pathlib.Path) -> None:
    """Progress, the folder's name, the record: the prompt's bytes come as lone surrogates here."""
    model = save_stable_diffusion(tmp_path / "sd")
    words = ["synthesize", "abc 一", "--model", str(model), "--device", "cpu", "--steps", "2"]
    command = [sys.executable, "-m", "ldp_fast.cli", *words]
    done = run(command, cwd=tmp_path, **ASCII, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
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
