"""`ldp-fast completion`: a shell's script, made from the parsers of all commands by shtab."""

from __future__ import annotations

import argparse
import importlib
import pathlib
import typing
from collections.abc import Iterator

from . import _commands

SHELLS = ("bash", "zsh", "fish", "tcsh")
EXAMPLES = """\
examples:
  ldp-fast completion bash > ~/.local/share/bash-completion/completions/ldp-fast
  ldp-fast completion zsh > ~/.zfunc/_ldp-fast                             with fpath+=~/.zfunc before compinit
  ldp-fast completion fish > ~/.config/fish/completions/ldp-fast.fish

The script does not start ldp-fast to complete a word; print it again after an update.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.epilog = EXAMPLES
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code, 0."""
    import shtab

    print(shtab.complete(all_commands(), shell=args.shell), end="")
    return 0


def all_commands() -> argparse.ArgumentParser:
    """One parser of all commands, with what shtab wants to know: which words are files, and which values there are."""
    import shtab

    root = argparse.ArgumentParser(prog="ldp-fast")
    commands = root.add_subparsers(dest="command", parser_class=_commands.Parser)
    known = dict(_choices())
    for name, (module, summary) in _commands.COMMANDS.items():
        parser = commands.add_parser(name, help=summary)
        _commands.declare(importlib.import_module(module), parser, name, [])
        for action in [*parser._actions, *(a for sub in _below(parser) for a in sub._actions)]:
            action.choices = action.choices or known.get(action.dest)
            if action.type is pathlib.Path or action.dest in ("config", "lora", "tokenizer"):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return root


def _below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _choices() -> Iterator[tuple[str, list[str]]]:
    """The values that a flag's field may have, by its place."""
    from .apps.synthesis.configuration import Synthesis
    from .apps.text_to_3d.sections import JacobianNerf
    from .runs.flags import flags_of

    for cls in (Synthesis, JacobianNerf):
        for flag in flags_of(cls):
            if typing.get_origin(flag.hint) is typing.Literal:
                yield flag.place, [str(value) for value in typing.get_args(flag.hint)]
