"""`ldp-fast run MODULE:NAME PROMPT`: an application that is not part of this package (docs/your_own_application.md)."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError
from ..runs import flags
from ..runs.experiment import Application, Experiment
from ..runs.jobs import Job
from ..runs.names import as_typed, name_of
from ..runs.prompts import Prompt
from ..runs.settings import settings_of
from . import registry, run_options
from .config_flag import add_config_flag
from .entry import Entry
from .options import GROUPS, RUN, ModelConfiguration, configure, unsaid
from .variants import configured, variant_name

EXAMPLES = """\
examples:
  ldp-fast run {name} "a red cube" --out out/cube
  ldp-fast run {name} --resume out/cube             after an interruption
  ldp-fast run {name} "a red cube" --print-config   its settings, to start from with --config
"""
HOW = """
  ldp-fast run pixel_art:ENTRY --help                       its own options

docs/your_own_application.md shows how to write one, in a hundred lines.
"""


def entry_of(application: Application, cls: type[ModelConfiguration], preset: str = "image") -> Entry:
    """An application of one prompt, with nothing to say but its configuration and its experiment.

    Every field of the configuration that names a flag has one. A sweep makes each prompt with each choice of losses
    and, where the configuration has a `seed` with a flag, each of --seeds.

    Args:
        application: what it is to the loop.
        cls: the configuration, with a field `prompt`; what neither a flag nor a file says is a field's default.
        preset: of the prior, where none is chosen.

    Returns:
        What `ldp-fast run` and `ldp-fast sweep --application` take.

    Raises:
        UsageError: they do not fit together; says what is missing.
    """
    _check(application, cls)
    return Entry(
        application,
        functools.partial(add_flags_of, cls, preset=preset, several=True),
        functools.partial(plan, application=application, cls=cls, preset=preset),
        alone=functools.partial(add_flags_of, cls, preset=preset),
        configure=functools.partial(begin, cls=cls, preset=preset),
    )


def _check(application: Any, cls: Any) -> None:
    if not isinstance(application, Application):
        raise UsageError(f"entry_of: expected an Application of ldp_fast.runs.experiment, got {application!r:.60}")
    if not (isinstance(cls, type) and issubclass(cls, ModelConfiguration)):
        raise UsageError(f"entry_of: expected a class on top of ModelConfiguration, got {cls!r:.60}")
    if "__dataclass_fields__" not in vars(cls):
        raise UsageError(f"{cls.__name__}: expected @dataclasses.dataclass(frozen=True, kw_only=True) above it")
    if "prompt" not in settings_of(cls):
        raise UsageError(f'{cls.__name__}: expected a field prompt: str = setting("what to make")')
    name = application.name
    if cls.application != name:
        raise UsageError(f"{cls.__name__}: expected application = {name!r}, its Application's, got {cls.application!r}")
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(f"Application.name: expected words of a-z and 0-9 with hyphens between them, got {name!r}")
    known: dict[str, str] = {}
    for flag in flags.all_flags_of(cls):
        other = known.setdefault(flag.name, flag.place)
        if other != flag.place:
            raise UsageError(f"{cls.__name__}.{flag.place}: {flag.name} is the flag of {other} already")
    try:
        made = application.class_of({})
    except Exception:  # a class that was given in place of what returns it
        made = None
    if made is not cls:
        raise UsageError(f"Application.class_of: expected lambda plain: {cls.__name__}, which returns {cls.__name__}")
    if isinstance(application.begin, type):
        # What is called at the end of a run should not be missed there.
        needed = [name for name in vars(Experiment) if callable(getattr(Experiment, name)) and not name.startswith("_")]
        missing = [name for name in needed if not hasattr(application.begin, name)]
        if missing:
            raise UsageError(
                f"{application.begin.__name__}: expected the methods of an Experiment, {', '.join(missing)} too"
            )


def add_flags_of(
    cls: type[ModelConfiguration], parser: argparse.ArgumentParser, *, preset: str = "image", several: bool = False
) -> None:
    """Declares the flags of a configuration; with `several` several seeds can be named."""
    add_config_flag(parser)
    many = {"seed": "seeds"} if several and _seeded(cls) else None
    flags.add_flags(parser, cls, {RUN: None, **GROUPS}, several=many, defaults=unsaid(cls, preset))


def _seeded(cls: type[ModelConfiguration]) -> bool:
    return any(flag.place == "seed" for flag in flags.flags_of(cls))


def begin(args: argparse.Namespace, *, cls: type[ModelConfiguration], preset: str, **more: Any) -> ModelConfiguration:
    """The configuration of a run or a job.

    Raises:
        UsageError: no prompt, an unknown name, a value of another type or out of its range.
    """
    prompt = more.pop("prompt", getattr(args, "prompt", None))
    if prompt is not None and prompt.strip():
        more["prompt"] = as_typed(prompt, "prompt")
    elif prompt is not None or not getattr(args, "config", None):
        raise UsageError(f'prompt: expected one, such as ldp-fast run {args.application} "a red cube"')
    return configure(args, cls, preset, **more)


def plan(
    prompts: Sequence[Prompt],
    args: argparse.Namespace,
    *,
    application: Application,
    cls: type[ModelConfiguration],
    preset: str,
    **more: Any,
) -> list[Job]:
    """The jobs of a sweep, in the order of the prompts.

    Raises:
        UsageError: two choices of losses that are the same.
    """
    jobs: list[Job] = []
    for prompt in prompts:
        for seed in dict.fromkeys(getattr(args, "seed", [None])):
            own = {**more, "prompt": prompt.text, **({} if seed is None else {"seed": seed})}
            job = functools.partial(_job, args, cls=cls, preset=preset, **own)
            for losses, found in configured(args.losses, job).items():
                # Where it is not said, a file or the field's default has it; and who draws nothing has none.
                drawn = getattr(found, "seed", 0)
                labels = {"prompt": prompt.text, "method": application.name, "losses": losses, "seed": drawn}
                name = f"{name_of(prompt.text)}-{variant_name(application.name, losses)}-seed{drawn}"
                jobs.append(Job(name, labels, found))
    return jobs


def _job(args: argparse.Namespace, settings: dict[str, Any], **more: Any) -> ModelConfiguration:
    return begin(args, settings=settings, **more)


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str] = ()) -> None:
    """Declares the command's flags: its own, and those of the application.

    Args:
        parser: of the command.
        words: of the command line, the first of which names the application.
    """
    parser.epilog = EXAMPLES.format(name="pixel_art:ENTRY").rstrip() + HOW
    parser.add_argument(
        "application",
        metavar="MODULE:NAME",
        help="a module of this folder or of Python's path, and its Entry; or the name of an installed application",
    )
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to make")
    run_options.add_folder_flags(parser)
    run_options.add_preview_flags(parser)
    if words and words[0] not in ("-h", "--help"):
        if words[0].startswith("-"):
            raise UsageError(
                f"MODULE:NAME: expected it before the options, got {words[0]}: its own options depend on it"
            )
        parser.epilog = EXAMPLES.format(name=words[0])
        _alone(words[0]).alone(parser)


def run(args: argparse.Namespace) -> int:
    """The command. Returns the exit code: 0, or 130 after an interruption that can be resumed."""
    entry = _alone(args.application)
    options = run_options.read(args)
    cls = entry.application.class_of({})
    return run_options.carry_out(args, entry.application, cls, options, entry.configure, "prompt")


def _alone(name: str) -> Any:
    entry = registry.find(name)
    if entry.alone is None or entry.configure is None:
        name = entry.application.name
        raise UsageError(f"{name} is a command of its own: ldp-fast {name}")
    return entry
