"""The flags of every command that runs in a folder, and what they mean to the loop."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

from ..errors import UsageError
from ..runs import folder as folders
from ..runs.experiment import Application
from ..runs.flags import flags_of, whole
from ..runs.loop import Options
from .options import check_device_flag

# Given beside --resume they change what is shown, where and how often it is saved, not the run.
HARMLESS = ("resume", "preview", "viewer", "port", "profile", "device", "checkpoint_every", "keep")


def add_folder_flags(parser: argparse.ArgumentParser) -> None:
    """Declares --out, --resume and --overwrite."""
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR", help="where to (default: out/PROMPT)")
    parser.add_argument("--resume", type=pathlib.Path, metavar="DIR", help="continue the run in DIR as it was started")
    parser.add_argument("--overwrite", action="store_true", help="replace a run that DIR already holds")


def add_product_flags(group: Any, products: tuple[str, ...]) -> None:
    """Declares --no-NAME of each product."""
    for name in products:
        group.add_argument(f"--no-{name}", action="store_true", help=f"leave out the {name} at the end")


def read(
    args: argparse.Namespace, products: tuple[str, ...] = (), watch: Callable[[Any], Any] | None = None
) -> Options:
    """What the loop is told.

    Raises:
        UsageError: a value out of its range.
    """
    for name in ("preview", "checkpoint_every", "keep"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: expected a whole number of at least 1, got {value}")
    device = getattr(args, "device", None)
    check_device_flag(device)
    return Options(
        preview=args.preview,
        overwrite=args.overwrite,
        profile=args.profile,
        without=tuple(name for name in products if getattr(args, f"no_{name}")),
        device=getattr(args, "device", None),
        checkpoint_every=getattr(args, "checkpoint_every", None),
        keep=getattr(args, "keep", None),
        watch=watch,
    )


def add_preview_flags(group: Any) -> None:
    """Declares --preview and --profile."""
    group.add_argument("--preview", type=whole, metavar="N", help="write DIR/preview.png every N steps")
    group.add_argument("--profile", action="store_true", help="print where a step's time goes")


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
    allowed = {*HARMLESS, *(f"no_{name}" for name in products)}
    changed = [names.get(x, f"--{x.replace('_', '-')}") for x in args.given if x not in allowed]
    if changed:
        raise UsageError(f"--resume continues a run as it was started; it cannot change {', '.join(changed)}")


def resumed(args: argparse.Namespace, application: Application) -> Any:
    """The configuration of --resume; None where that run is finished, which is said then.

    Raises:
        UsageError: there is no run of this command, or its configuration is damaged.
    """
    folders.require(args.resume, application.name)
    configuration = application.read(args.resume)
    if folders.finished(args.resume):
        print(f"{args.resume} is finished already: {args.resume / application.result}")
        return None
    return configuration
