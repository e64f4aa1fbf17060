"""Makes flags from the fields of a configuration, and settings from the flags that were given."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from ..errors import UsageError
from .configuration import Configuration
from .settings import Setting, Wrong, element, hints, settings_of, without_none

C = TypeVar("C", bound=Configuration)


def number(word: str) -> float:
    """A flag's value: any number except NaN and infinity, which do not make sense for any flag.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {word!r}")
    return value


def whole(word: str) -> int:
    """A flag's value: a whole number.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got {word!r}") from None


@dataclasses.dataclass(frozen=True)
class Flag:
    """A field that a flag sets.

    Attributes:
        place: of the field, such as `optimizer.learning_rate`; where argparse puts the value.
        hint: the field's type, without `| None`.
        known: what the field says of itself.
        default: of the field; MISSING if it has none.
    """

    place: str
    hint: Any
    known: Setting
    default: Any

    @property
    def name(self) -> str:
        """As it is typed."""
        return f"--{self.known.flag}"


def flags_of(cls: type, place: str = "") -> Iterator[Flag]:
    """The flags of a configuration and its sections; a name that two sections have is given once, for the first."""
    seen = set()
    for field in dataclasses.fields(cls):
        known, hint = settings_of(cls)[field.name], hints(cls)[field.name]
        here = f"{place}.{field.name}" if place else field.name
        inner = without_none(hint)
        if known.flag is not None:
            found = [Flag(here, inner, known, field.default)]
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            found = list(flags_of(inner, here))
        else:
            found = []
        for flag in found:
            if flag.name not in seen:
                seen.add(flag.name)
                yield flag


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    groups: Mapping[str, str | None],
    *,
    several: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> None:
    """Declares a flag for every field that has one; what is not given is not in the namespace.

    Args:
        parser: of the command.
        cls: the configuration.
        groups: of the help, in their order, with what each says.
        several: fields of which several values may be given, and the names of their flags then.
        without: fields that the command decides itself.
    """
    made = {title: parser.add_argument_group(title, text) for title, text in groups.items()}
    for flag in flags_of(cls):
        if flag.place in without:
            continue
        where = made[flag.known.group] if flag.known.group else parser
        name = flag.name
        options = _options(flag)
        if several and flag.place in several:
            name, options["nargs"] = f"--{several[flag.place]}", "+"
        where.add_argument(name, dest=flag.place, default=argparse.SUPPRESS, help=_help(flag), **options)


def _options(flag: Flag) -> dict[str, Any]:
    known, hint = flag.known, flag.hint
    if hint is bool:
        return {"action": "store_false" if flag.default is True else "store_true"}
    names = known.metavar.split() if known.metavar else None
    metavar: Any = None if names is None else names[0] if len(names) == 1 else tuple(names)
    kind: Any = known.word or {int: whole, float: number}.get(element(hint), str)
    options: dict[str, Any] = {"type": kind, "metavar": metavar}
    if known.repeated:
        options["action"] = "append"
    elif typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        options["nargs"] = "+" if inner[-1] is Ellipsis else len(inner)
    elif typing.get_origin(hint) is list:
        options["nargs"] = "+"
    return options


def _help(flag: Flag) -> str:
    said = flag.known.help
    plain = flag.default is not dataclasses.MISSING and flag.default not in (None, "", True, False)
    if plain and "default" not in said:
        shown = " ".join(map(str, flag.default)) if isinstance(flag.default, (tuple, list)) else flag.default
        said = f"{said} (default: {shown})"
    return said.replace("%", "%%")


def given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
    """What was given on the command line, as plain settings."""
    found: dict[str, Any] = {}
    for flag in flags_of(cls):
        if hasattr(args, flag.place):
            put(found, flag.place, getattr(args, flag.place))
    return found


def put(plain: dict[str, Any], place: str, value: Any) -> None:
    """Sets `optimizer.learning_rate` of plain settings."""
    *sections, name = place.split(".")
    for section in sections:
        plain = plain.setdefault(section, {})
    plain[name] = value


def build(
    cls: type[C],
    plain: Mapping[str, Any],
    args: argparse.Namespace,
    file: pathlib.Path | None = None,
    more: Mapping[str, str] | None = None,
) -> C:
    """The configuration of a command.

    Args:
        cls: its class.
        plain: all that is known, flags included.
        args: the command line.
        file: where what was not given on the command line comes from, if it is from a file.
        more: flags that the command declares itself, by the places that they set.

    Raises:
        UsageError: names the flag, or the file and the field.
    """
    try:
        return cls.from_plain(plain)
    except Wrong as error:
        names = {**{flag.place: flag.name for flag in flags_of(cls)}, **(more or {})}
        if error.place and file is not None and not hasattr(args, error.place):
            raise UsageError(f"{file}: {error}") from None
        raise UsageError(f"{names.get(error.place, error.place)}: {error.said}") from None


def from_file(cls: type[C], plain: Mapping[str, Any], file: pathlib.Path) -> C:
    """The configuration that a file holds.

    Raises:
        UsageError: names the file and the field.
    """
    try:
        return cls.from_plain(plain)
    except Wrong as error:
        damaged = " is damaged" if not error.place else ""
        raise UsageError(f"{file}{damaged}: {error}") from None
