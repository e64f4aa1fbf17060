"""The command line: `ldp-fast COMMAND`.

Each command is a module with `add_arguments(parser)` and `run(args) -> int`, imported when it is called for, so that
`ldp-fast --help` needs nothing but Python. What the user can mend is one line on stderr and exit code 2;
`LDP_FAST_DEBUG=1` shows the traceback instead.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import itertools
import os
import sys
from collections.abc import Sequence

from . import __version__, _extension, _settings
from ._commands import COMMANDS, EXTRAS, SHARED, HelpFormatter, Parser, parser_of
from ._terminal import ask, make_printable, quoted
from ._threads.choice import adopt, adopted
from ._threads.waiting import watched
from .errors import UsageError, of_memory
from .runs.ranks import check_alone

__all__ = ["COMMANDS", "EXTRAS", "HelpFormatter", "Parser", "explain", "main"]

HELP = """\
usage: ldp-fast COMMAND [options]

Text-driven visual synthesis with a latent diffusion prior.

commands:
{commands}

options:
  -h, --help      print this text; after a command, its help (also: ldp-fast help COMMAND)
  --version       print the version

environment:
  LDP_FAST_BACKEND=auto|reference|triton   implementation that the operators use (default: auto)
  LDP_FAST_CACHE=DIR                       folder for small notes (default: ~/.cache/ldp_fast)
  LDP_FAST_DEBUG=1                         show an error's traceback, not one line
  LDP_FAST_RANKS_SECONDS=S                 seconds that ranks wait for each other (default: 20)

examples:
  ldp-fast text-to-3d "a red torus"
  ldp-fast synthesize "a red cube"
  ldp-fast ablate "a red cube" --steps 300
  ldp-fast env --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the arguments after `ldp-fast`. None: this process is the command; it takes `sys.argv[1:]`, its
            streams print what their encoding lacks in another form, and it chooses the threads of torch.

    Returns:
        The exit code: 0, the command's own, 2 after an error that the user can mend, 130 after Ctrl-C.
    """
    if argv is None:
        make_printable()
        adopt()
    try:
        return _dispatch(list(sys.argv[1:] if argv is None else argv), alone=argv is None)
    except KeyboardInterrupt:
        print("ldp-fast: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of `ldp-fast … | head` is gone; without this Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UsageError, OSError, ModuleNotFoundError, FloatingPointError, RuntimeError) as error:
        message = explain(error)
        if message is None or os.environ.get("LDP_FAST_DEBUG") == "1":
            raise
        print(f"ldp-fast: error: {message}", file=sys.stderr)
        return 2


def explain(error: Exception) -> str | None:
    """One line for the user, or None for an error that is a fault of this package."""
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").split(".")[0]
        if module == "torch":
            return "torch is not installed: pip install torch"
        if module not in EXTRAS:
            return None
        return f"{module} is not installed: pip install 'ldp-fast[{EXTRAS[module]}]'"
    if isinstance(error, RuntimeError) and not of_memory(error):
        return None
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower() + (f": {error.filename}" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__


def _dispatch(argv: list[str], alone: bool) -> int:
    if not argv:
        print(_help(), end="", file=sys.stderr)
        return 2
    name, *rest = _as_meant(argv)
    if name in ("-h", "--help"):
        print(_help(), end="")
        return 0
    if name == "--version":
        print(f"ldp-fast {__version__}")
        return 0
    if name not in COMMANDS:
        name, *rest = _guess([name, *rest])
    command = importlib.import_module(COMMANDS[name][0])
    parser = parser_of(command, name, rest)
    args = parser.parse_args(rest)
    # Which of them were typed: the value alone does not say so of one that is the default.
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    args.given = tuple(vars(parser.parse_args(rest)))
    if name not in ("env", "completion"):  # the first reports a wrong setting itself
        try:
            _settings.backend(), _settings.lanes(), _settings.convolutions(), _settings.attention()
        except ValueError as error:
            raise UsageError(str(error)) from None
        if alone and os.environ.get("RANK", "0") == "0":
            _extension.say_once(_settings.cache_folder())
    if name not in SHARED:
        check_alone(name)
    choice = adopted()
    with watched() if choice is not None and choice.watch else contextlib.nullcontext():
        return int(command.run(args))


def _as_meant(argv: list[str]) -> list[str]:
    """`help COMMAND` as `COMMAND --help`, `text_to_3d` as `text-to-3d`."""
    name, *rest = argv
    if name == "help":
        if not rest or rest[0].startswith("-"):
            return ["--help"]
        name, rest = rest[0], [*rest[1:], "--help"]
    hyphens = name.replace("_", "-")
    return [hyphens if hyphens in COMMANDS else name, *rest]


def _guess(argv: list[str]) -> list[str]:
    """The command line that was meant by one whose first word is not a command: a prompt alone, if somebody says so.

    Raises:
        UsageError: says what to type.
    """
    name = argv[0]
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    nearest = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
    # What has spaces is a prompt without a command, not a mistyped command.
    if " " not in name and (len(words) < 2 or nearest):
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(COMMANDS)}"
        kind = "option" if name.startswith("-") else "command"
        raise UsageError(f"unknown {kind} {name!r}: {hint} (see ldp-fast --help)")
    if " " not in name:
        argv = [" ".join(words), *argv[len(words) :]]
    answer = ask(f"{quoted(argv[:1])}: a 3D object or an image? [3/i, Enter: neither]")
    for command, answers in (("text-to-3d", ("3", "3d")), ("synthesize", ("i", "image"))):
        if answer in (command, *answers):
            return [command, *argv]
    typed = quoted(argv)
    raise UsageError(
        f"expected a command before a prompt: ldp-fast text-to-3d {typed} makes a 3D object, "
        f"ldp-fast synthesize {typed} makes an image"
    )


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<14}  {summary}" for name, (_, summary) in COMMANDS.items()))


if __name__ == "__main__":
    sys.exit(main())
