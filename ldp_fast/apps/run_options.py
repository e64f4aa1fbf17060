"""The flags of every command that runs in a folder, and what they mean to the loop."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from ..runs import checkpoints
from ..runs import folder as folders
from ..runs.configuration import as_yaml, merged
from ..runs.experiment import Application
from ..runs.flags import build, flags_of, given, whole
from ..runs.loop import Options, run
from ..runs.names import name_of
from ..runs.settings import settings_of
from .options import check_device_flag
from .targets import check_writable

# Given beside --resume they change what is shown, not the run; so do settings that are not about the result.
HARMLESS = ("resume", "preview", "viewer", "port", "profile", "application")


def add_folder_flags(parser: argparse.ArgumentParser) -> None:
    """Declares --out, --resume and --overwrite."""
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="folder to write to (default: out/PROMPT)")
    parser.add_argument(
        "--resume", type=pathlib.Path, metavar="DIR", help="continue the run in DIR with its own settings"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run that the folder already holds")


def add_product_flags(group: Any, products: tuple[str, ...]) -> None:
    """Declares --no-NAME of each product."""
    for name in products:
        group.add_argument(
            f"--no-{name}", action="store_true", help=f"do not make a {name} at the end, nor with --resume"
        )


def without(args: argparse.Namespace, products: tuple[str, ...]) -> tuple[str, ...]:
    """Of an application's products those that the command line does not want."""
    return tuple(name for name in products if getattr(args, f"no_{name}"))


def read(
    args: argparse.Namespace, products: tuple[str, ...] = (), watch: Callable[[Any, str], Any] | None = None
) -> Options:
    """What the loop is told.

    Raises:
        UsageError: a value out of its range.
    """
    if args.preview is not None and args.preview < 1:
        raise UsageError(f"--preview: expected a whole number of at least 1, got {args.preview}")
    device = getattr(args, "device", None)
    check_device_flag(device)
    return Options(
        preview=args.preview,
        overwrite=args.overwrite,
        profile=args.profile,
        without=without(args, products),
        device=device,
        watch=watch,
    )


def add_preview_flags(group: Any) -> None:
    """Declares --preview and --profile."""
    group.add_argument("--preview", type=whole, metavar="N", help="write a picture to DIR/preview.png every N steps")
    group.add_argument("--profile", action="store_true", help="print how long each part of a step takes")


def carry_out(
    args: argparse.Namespace,
    application: Application,
    cls: type[Any],
    options: Options,
    configure: Callable[[argparse.Namespace], Any],
    prompt: str,
    products: tuple[str, ...] = (),
) -> int:
    """Runs what the command line says: goes on with --resume, prints with --print-config, or begins anew.

    Args:
        args: of the command line; its argument `prompt` or `prompts` is what a new run is made of.
        application: of the command.
        cls: of the configuration, with all flags.
        options: what the loop is told.
        configure: makes the configuration of a new run.
        prompt: the name of that argument.
        products: that may be left out.

    Returns:
        The exit code.

    Raises:
        UsageError: what the user can mend.
    """
    if args.resume:
        if getattr(args, prompt) or args.out:
            what = "prompts" if prompt == "prompts" else "the prompt"
            raise UsageError(f"--resume takes {what} and everything else from its folder; give it alone")
        refuse_changes(args, cls, products)
        configuration = resumed(args, application, cls)
        # What was not wanted at first is not wanted later, and need not be said again.
        held = folders.status(args.resume).get("without")
        unwanted = tuple(
            name for name in products if name in options.without or (isinstance(held, list) and name in held)
        )
        again = dataclasses.replace(options, without=unwanted)
        return 0 if configuration is None else run(application, args.resume, configuration, again)
    configuration = configure(args)
    if args.print_config:
        print(as_yaml(configuration), end="")
        return 0
    first = configuration.prompts[0] if prompt == "prompts" else configuration.prompt
    folder = args.out or pathlib.Path("out") / name_of(first)
    folders.check_free(folder, args.overwrite)
    check_writable(folder)
    return run(application, folder, configuration, options)


def refuse_changes(args: argparse.Namespace, cls: type, products: tuple[str, ...] = ()) -> None:
    """Checks that --resume comes without options that would make another run of it.

    Args:
        args: of the command line, with `given`, the names of those that were typed.
        cls: of the configuration.
        products: that may be left out.

    Raises:
        UsageError: names the others.
    """
    names = {flag.place: flag.name for flag in flags_of(cls)}
    known = settings_of(cls)
    allowed = {*HARMLESS, *(f"no_{name}" for name in products), *(x for x in known if not known[x].about_result)}
    changed = [names.get(x, f"--{x.replace('_', '-')}") for x in args.given if x not in allowed]
    if changed:
        raise UsageError(f"--resume continues a run as it was started; it cannot change {', '.join(changed)}")


def resumed(args: argparse.Namespace, application: Application, cls: type[Any]) -> Any:
    """The configuration of --resume, with what may be said anew; None where that run is finished, which is said then.

    A finished run that lacks something of what it makes at its end goes on from its last step, and makes that again.

    Raises:
        UsageError: there is no run of this command, its configuration is damaged, or a value is out of its range; a
            finished run lacks what it made, and the checkpoint to make it from.
    """
    folders.require(args.resume, application.name)
    configuration = application.read(args.resume)
    if folders.finished(args.resume):
        missing = lacking(args.resume, application)
        if not missing:
            print(f"{args.resume} is finished already: {args.resume / application.result}")
            return None
        said = f"{args.resume} is finished already, without {', '.join(missing)}"
        kept = checkpoints.steps(args.resume)[-1:] == [folders.status(args.resume).get("step")]
        if not kept and application.former_state(args.resume, configuration) is None:
            raise UsageError(
                f"{said}, and the checkpoint of its last step is missing too: to run it again, give a new --out and "
                f"--config {args.resume / 'config.yaml'}"
            )
        print(f"{said}: making what belongs to its end again", file=sys.stderr)
    # Not the device: the precision that was chosen for the run's own is not said anew.
    anew = {name: value for name, value in given(args, cls).items() if name != "device"}
    return build(type(configuration), merged(configuration.plain(), anew), args)


def lacking(folder: pathlib.Path, application: Application) -> list[str]:
    """What a finished run has not left: of its results those that are gone, and what was left out for an error."""
    written = folders.RunFolder(folder, application).files()
    results = (application.result, *application.essential.values())
    gone = [name for name in dict.fromkeys(results) if name in written and not (folder / name).exists()]
    left_out = folders.status(folder).get("left_out")
    left_out = left_out if isinstance(left_out, dict) else {}
    return gone + [name for name, reason in left_out.items() if reason != f"--no-{name}"]
