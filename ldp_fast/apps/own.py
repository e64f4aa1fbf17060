"""`ldp-fast run MODULE:NAME PROMPT`: an application that is not part of this package (docs/your_own_application.md)."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from ..runs import flags
from ..runs.experiment import Application
from ..runs.jobs import Job
from ..runs.names import as_typed, name_of
from ..runs.prompts import Prompt
from . import registry, run_options
from .entry import Entry
from .options import GROUPS, RUN, ModelConfiguration, add_config_flag, configure
from .variants import configured, variant_name

EXAMPLES = """\
examples:
  ldp-fast run pixel_art:ENTRY "a red cube" --steps 200
  ldp-fast run pixel_art:ENTRY --resume out/a-red-cube                     after an interruption
  ldp-fast run pixel_art:ENTRY --help                                      its options
"""


def entry_of(application: Application, cls: type[ModelConfiguration], preset: str = "image") -> Entry:
    """An application of one prompt, with nothing to say but its configuration and its experiment.

    Every field of the configuration that names a flag has one. A sweep makes each prompt with each choice of losses
    and, where the configuration has a `seed` with a flag, each seed.

    Args:
        application: what it is to the loop.
        cls: the configuration, with a field `prompt`; what neither a flag nor a file says is a field's default.
        preset: of the prior, where none is chosen.

    Returns:
        What `ldp-fast run` and `ldp-fast sweep --application` take.
    """
    seeded = any(flag.place == "seed" for flag in flags.flags_of(cls))

    def add(parser: argparse.ArgumentParser, several: bool = True) -> None:
        add_config_flag(parser)
        flags.add_flags(parser, cls, {RUN: None, **GROUPS}, several={"seed": "seeds"} if several and seeded else None)

    def begin(args: argparse.Namespace, **more: Any) -> Any:
        if more.get("prompt") is not None:
            more["prompt"] = as_typed(more["prompt"], "prompt")
        return configure(args, cls, preset, **more)

    def plan(prompts: Sequence[Prompt], args: argparse.Namespace, **more: Any) -> list[Job]:
        jobs: list[Job] = []
        for prompt in prompts:
            for seed in dict.fromkeys(getattr(args, "seed", [0])):
                own = {**more, "prompt": prompt.text, **({"seed": seed} if seeded else {})}
                for losses, found in configured(args.losses, functools.partial(_with, begin, args, own)).items():
                    labels = {"prompt": prompt.text, "method": application.name, "losses": losses, "seed": seed}
                    name = f"{name_of(prompt.text)}-{variant_name(application.name, losses)}-seed{seed}"
                    jobs.append(Job(name, labels, found))
        return jobs

    return Entry(application, add, plan, alone=functools.partial(add, several=False), configure=begin)


def _with(begin: Any, args: argparse.Namespace, own: dict[str, Any], settings: dict[str, Any]) -> Any:
    return begin(args, **own, settings=settings)


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """Declares the command's flags: its own, and those of the application.

    Args:
        parser: of the command.
        words: of the command line, the first of which names the application.
    """
    parser.epilog = EXAMPLES
    parser.add_argument(
        "application", metavar="MODULE:NAME", help="a module of this folder or of Python's path, and its Entry"
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make")
    run_options.add_folder_flags(parser)
    run_options.add_preview_flags(parser)
    if words and not words[0].startswith("-"):
        _alone(words[0]).alone(parser)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    entry = _alone(args.application)
    options = run_options.read(args)

    def begin(args: argparse.Namespace) -> Any:
        if args.prompt is None and not getattr(args, "config", None):
            raise UsageError(f'prompt: expected one, such as ldp-fast run {args.application} "a red cube"')
        return entry.configure(args, **({} if args.prompt is None else {"prompt": args.prompt}))

    cls = entry.application.class_of({})
    return run_options.carry_out(args, entry.application, cls, options, begin, "prompt")


def _alone(name: str) -> Any:
    entry = registry.find(name)
    if entry.alone is None or entry.configure is None:
        name = entry.application.name
        raise UsageError(f"{name} is a command of its own: ldp-fast {name}")
    return entry
