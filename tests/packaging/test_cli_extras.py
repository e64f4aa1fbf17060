"""Help needs no extra; the completion of shells knows every command, option and value."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest

from ldp_fast import _commands, cli

from .installation import ROOT, run

METRICS = ("r-precision", "clip-score", "fid", "kid", "lpips", "colour", "truth")

# Imports of what is not there fail when they are executed; that torch asks for a module's place is harmless.
WITHOUT_EXTRAS = """
import importlib.util, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self) if name.split(".")[0] in ABSENT else None
    def create_module(self, spec):
        raise ModuleNotFoundError(f"No module named {spec.name!r}", name=spec.name)
    def exec_module(self, module):
        pass

ABSENT, METRICS = (set(words.split(",")) for words in sys.argv[1:])
sys.meta_path.insert(0, Absent())
from ldp_fast import cli
for words in [[name] for name in cli.COMMANDS] + [["evaluate", name] for name in sorted(METRICS)]:
    try:
        code = cli.main([*words, "--help"])
    except SystemExit as ended:
        code = ended.code
    print("ENDED", *words, code)
if not ABSENT.isdisjoint(module.split(".")[0] for module in sys.modules):
    print("IMPORTED")
if "torch._dynamo" in sys.modules:
    print("DYNAMO")
print("code", cli.main(["synthesize", "a red cube", "--print-config"]))
"""


def test_every_help_needs_no_extra() -> None:
    absent = {*_commands.EXTRAS, "ray"}
    done = run([sys.executable, "-c", WITHOUT_EXTRAS, ",".join(absent), ",".join(METRICS)], cwd=ROOT)
    assert done.returncode == 0, done.stderr
    ended = re.findall(r"^ENDED (.+)$", done.stdout, re.MULTILINE)
    assert ended == [f"{name} 0" for name in (*cli.COMMANDS, *(f"evaluate {x}" for x in sorted(METRICS)))], done.stderr
    assert "IMPORTED" not in done.stdout
    # Which takes longer than torch itself, and is for those who compile.
    assert "DYNAMO" not in done.stdout
    # The block blocks: what does need an extra says which.
    assert done.stdout.endswith("code 2\n") and "pip install 'ldp-fast[apps]'" in done.stderr


@pytest.fixture(scope="module")
def scripts() -> dict[str, str]:
    shtab = pytest.importorskip("shtab")
    from ldp_fast._completion import all_commands

    root = all_commands()
    return {shell: shtab.complete(root, shell=shell) for shell in ("bash", "zsh", "fish")}


def test_scripts_name_everything(scripts: dict[str, str]) -> None:
    for shell, script in scripts.items():
        for word in (*cli.COMMANDS, "each-word", "lambda-fm", "jacobian-nerf", "r-precision"):
            assert word in script, (shell, word)


def complete(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words."""
    typed = " ".join(f"'{word}'" for word in words)
    asked = f"{script}\nCOMP_WORDS=({typed})\nCOMP_CWORD={len(words) - 1}\n"
    function = re.findall(r"^complete .*-F (\w+) ", script, re.MULTILINE)[-1]
    asked += f'{function} ldp-fast "{words[-1]}" "{words[-2]}"\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    done = subprocess.run(["bash", "--norc"], input=asked, capture_output=True, text=True, timeout=60)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes(scripts: dict[str, str]) -> None:
    script = scripts["bash"]
    assert complete(script, "ldp-fast", "syn") == ["synthesize"]
    assert set(complete(script, "ldp-fast", "text-to-3d", "--lambda-")) >= {"--lambda-fm", "--lambda-kl"}
    assert "jacobian-nerf" in complete(script, "ldp-fast", "text-to-3d", "--method", "")


def test_the_command_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert cli.main(["completion", "bash"]) == 0
    assert "complete" in capsys.readouterr().out
    assert cli.main(["completion", "nushell"]) == 2
    assert "bash" in capsys.readouterr().err
