"""The first line of a command's help names what argparse asks for, and a command line of that form is taken."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator

import pytest

from ldp_fast import cli
from ldp_fast._commands import COMMANDS, parser_of


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Of the commands, and of those below them."""
    for name, (module, _) in COMMANDS.items():
        parser = parser_of(importlib.import_module(module), name, [])
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {below}", found) for below, found in action.choices.items())


PARSERS = dict(parsers())


@pytest.mark.parametrize("name", PARSERS)
def test_usage_names_what_is_required(name: str) -> None:
    usage = PARSERS[name].format_usage().split()
    assert usage[: 3 + name.count(" ")] == ["usage:", "ldp-fast", *name.split()]
    flags = [word for word in usage if word.startswith("--")]
    assert flags == [x.option_strings[-1] for x in PARSERS[name]._actions if x.option_strings and x.required]
    for action in PARSERS[name]._actions:
        if not action.option_strings:
            shown = action.metavar or action.dest
            assert any(word.strip("[].") == shown for word in usage), shown


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("generate", "usage: ldp-fast generate [options] GENERATOR --count N --out DIR\n"),
        ("convert-generator", "usage: ldp-fast convert-generator [options] FILE --out DIR\n"),
        ("evaluate fid", "usage: ldp-fast evaluate fid [options] PATH [PATH ...] --against PATH [PATH ...]\n"),
        ("text-to-3d", "usage: ldp-fast text-to-3d [options] [PROMPT]\n"),
    ],
)
def test_usage_is_short(name: str, said: str) -> None:
    assert PARSERS[name].format_usage() == said


def test_the_order_of_usage_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    found = PARSERS["evaluate fid"].parse_args(["a", "b", "--against", "c", "d"])
    assert vars(found)["against"] and cli.main(["generate", "nowhere", "--count", "1"]) == 2
    assert "the following arguments are required: --out" in capsys.readouterr().err
