"""The examples in the help of every command are commands that it takes: their words, and the jobs of a sweep."""

from __future__ import annotations

import importlib
import re
import shlex

import pytest

from ldp_fast._commands import COMMANDS, parser_of
from ldp_fast.apps import registry
from ldp_fast.runs.prompts import Prompt

# Those that an application of somebody else's has, which is not installed here.
FOREIGN = "pixel_art"
SWEEPS = [("sweep", "--application", name) for name in registry.names()]


def help_of(words: tuple[str, ...]) -> str:
    name, *rest = words
    return parser_of(importlib.import_module(COMMANDS[name][0]), name, rest).format_help()


def examples_of(words: tuple[str, ...]) -> list[list[str]]:
    """The command lines in the help of a command, without what stands behind them as an explanation."""
    found = []
    for line in help_of(words).splitlines():
        line = re.sub(r"^torchrun .*-m ldp_fast\S*", "ldp-fast", line.strip())
        # What an example does stands behind three spaces or more, as a shell's comment, or nowhere.
        line = line.partition("   ")[0].partition(" # ")[0].partition(" > ")[0].partition(" | ")[0]
        if line.startswith("ldp-fast ") and "COMMAND" not in line:
            found.append(shlex.split(line)[1:])
    return found


@pytest.mark.parametrize("words", [*((name,) for name in COMMANDS), *SWEEPS], ids=" ".join)
def test_every_example_is_taken(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    examples = [example for example in examples_of(words) if FOREIGN not in " ".join(example)]
    assert examples or words[0] == "run", f"{words}: its help does not have an example"
    for name, *rest in examples:
        args = parser_of(importlib.import_module(COMMANDS[name][0]), name, rest).parse_args(rest)
        if name == "sweep":
            # What an application does not have it refuses when it makes its jobs.
            jobs = registry.find(args.application).plan([Prompt("a red cube", "an example")], args, device="cpu")
            assert jobs, rest


def test_an_application_is_compared_by_what_it_has() -> None:
    said = help_of(("sweep", "--application", "adapt"))
    assert "--application adapt --guidance ldp lsd clip-directional --out" in said and "--losses lsd" not in said
    assert "each prompt is made with each of --guidance and each of --seeds" in " ".join(said.split())
    assert "with each of --seeds" in " ".join(help_of(("sweep", "--application", "clip-mesh")).split())
