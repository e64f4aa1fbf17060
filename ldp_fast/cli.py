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
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from . import __version__, _settings
from ._terminal import make_printable
from ._threads.choice import adopt, adopted
from ._threads.waiting import watched
from .errors import UsageError, of_memory
from .runs.ranks import check_alone

# name: (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "text-to-3d": ("ldp_fast.apps.text_to_3d.command", "make a 3D object from a prompt"),
    "synthesize": ("ldp_fast.apps.synthesis.command", "make an image from a prompt, by optimising a latent"),
    "ablate": ("ldp_fast.apps.synthesis.ablation", "compare LSD, LSD+FM, LSD+KL and all three in one figure"),
    "render": (
        "ldp_fast.apps.text_to_3d.pictures.command",
        "make a film or pictures of a run's object",
    ),
    "sweep": ("ldp_fast.apps.sweep.command", "make 3D objects of many prompts, and a table of how good they are"),
    "evaluate": ("ldp_fast.apps.evaluate.command", "measure what was made: R-Precision of 3D objects"),
    "export": ("ldp_fast.apps.text_to_3d.mesh.command", "write a text-to-3D run's object as a textured mesh"),
    "view": ("ldp_fast.apps.text_to_3d.viewer.command", "show a text-to-3d run's object in a browser, from all sides"),
    "env": ("ldp_fast.env_report", "print versions, devices and backends: what a bug report needs"),
}

# Those that several processes may do together, or that write nothing.
SHARED = ("text-to-3d", "sweep", "env")

# Top-level modules that an extra brings, and which one.
EXTRAS = {
    "PIL": "apps",
    "accelerate": "diffusers",
    "av": "apps",
    "diffusers": "diffusers",
    "matplotlib": "apps",
    "peft": "lora",
    "safetensors": "diffusers",
    "scipy": "metrics",
    "tensorboard": "apps",
    "skimage": "apps",
    "tqdm": "apps",
    "transformers": "diffusers",
    "trimesh": "apps",
    "viser": "viewer",
    "yaml": "apps",
}

HELP = """\
usage: ldp-fast COMMAND [options]

Text-driven visual synthesis with a latent diffusion prior.

commands:
{commands}

options:
  -h, --help      this text; after a command, that command's own
  --version       the version

environment:
  LDP_FAST_BACKEND=auto|reference|triton   which implementation the operators take (default: auto)
  LDP_FAST_DEBUG=1                         show the traceback of an error
  LDP_FAST_RANKS_SECONDS=S                 seconds that ranks wait for each other (default: 20)

examples:
  ldp-fast text-to-3d "a red torus"
  ldp-fast synthesize "a red cube"
  ldp-fast ablate "a red cube" --steps 300
  ldp-fast env --json
"""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' line breaks, shortens the usage, and states a default where the help does not."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size((100, 24)).columns, 110) - 2
        super().__init__(f"{prog} [options]", max_help_position=34, width=width)

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[argparse._MutuallyExclusiveGroup],
        prefix: str | None = None,
    ) -> None:
        """Names the arguments only: thirty options in brackets tell nobody anything."""
        super().add_usage(usage, [a for a in actions if not a.option_strings], [], prefix)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, False, "", argparse.SUPPRESS) or not action.option_strings
        if action.help is None or silent or "default" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Reports a wrong option like every other wrong value."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


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
        return _dispatch(list(sys.argv[1:] if argv is None else argv))
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
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror.lower()}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(_help(), end="", file=sys.stderr)
        return 2
    name, *rest = argv
    if name in ("-h", "--help"):
        print(_help(), end="")
        return 0
    if name == "--version":
        print(f"ldp-fast {__version__}")
        return 0
    if name not in COMMANDS:
        # What has spaces is a prompt without a command, not a mistyped command.
        nearest = [] if " " in name else difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(COMMANDS)}"
        kind = "option" if name.startswith("-") else "command"
        raise UsageError(f"unknown {kind} {name!r}: {hint} (see ldp-fast --help)")
    module, summary = COMMANDS[name]
    command = importlib.import_module(module)
    parser = Parser(
        prog=f"ldp-fast {name}", description=f"{summary[0].upper()}{summary[1:]}.", formatter_class=HelpFormatter
    )
    # A sweep's flags are those of the application that it names.
    command.add_arguments(parser, rest) if name == "sweep" else command.add_arguments(parser)
    args = parser.parse_args(rest)
    # Which of them were typed: the value alone does not say so of one that is the default.
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    args.given = tuple(vars(parser.parse_args(rest)))
    if name != "env":  # which reports a wrong setting itself
        try:
            _settings.backend(), _settings.lanes(), _settings.convolutions(), _settings.attention()
        except ValueError as error:
            raise UsageError(str(error)) from None
    if name not in SHARED:
        check_alone(name)
    choice = adopted()
    with watched() if choice is not None and choice.watch else contextlib.nullcontext():
        return command.run(args)


def _help() -> str:
    return HELP.format(commands="\n".join(f"  {name:<14}  {summary}" for name, (_, summary) in COMMANDS.items()))


if __name__ == "__main__":
    sys.exit(main())
