"""Makes flags from the fields of a configuration, and settings from the flags that were given."""

from __future__ import annotations

import argparse
import dataclasses
import math
import pathlib
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
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


def flags_of(cls: type) -> Iterator[Flag]:
    """The flags of a configuration and its sections; a name that two sections have is given once, for the first."""
    seen = set()
    for flag in all_flags_of(cls):
        if flag.name not in seen:
            seen.add(flag.name)
            yield flag


def all_flags_of(cls: type, place: str = "") -> Iterator[Flag]:
    """The flags of a configuration and its sections, those too that have the name of another."""
    for field in dataclasses.fields(cls):
        known, hint = settings_of(cls)[field.name], hints(cls)[field.name]
        here = f"{place}.{field.name}" if place else field.name
        inner = without_none(hint)
        if known.flag is not None:
            yield Flag(here, inner, known, field.default)
        elif dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from all_flags_of(inner, here)


def how_to_set(cls: type, place: str) -> str:
    """How a field is set: its flag, such as `--size`; else `field.levels (--config)`, as a file for --config has it.

    Args:
        cls: the configuration.
        place: of the field, such as `size` or `field.levels`.

    Raises:
        KeyError: there is not such a field.
    """
    for flag in flags_of(cls):
        if flag.place == place:
            return flag.name
    within: Any = cls
    for name in place.split("."):
        within = without_none(hints(within)[name])
    return f"{place} (--config)"


def one_of(names: Sequence[str]) -> str:
    """Names to choose from, such as `--size, --views or --supersample`."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def add_flags(
    parser: argparse.ArgumentParser,
    cls: type,
    groups: Mapping[str, str | None],
    *,
    several: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """Declares a flag for every field that has one; what is not given is not in the namespace.

    Args:
        parser: of the command.
        cls: the configuration.
        groups: of the help, in their order, with what each says; others that fields name come below them.
        several: fields of which several values may be given, and the names of their flags then.
        without: fields that the command decides itself.
        defaults: what holds in this command where nothing is said, for the help: values or words.

    Raises:
        UsageError: a field has the name or the flag of something that the command declares itself.
    """
    taken = {action.dest for action in parser._actions}
    made: dict[str | None, Any] = {None: parser}
    made |= {title: parser.add_argument_group(title, text) for title, text in groups.items()}
    unsaid = defaults or {}
    for flag in flags_of(cls):
        if flag.place in without:
            continue
        title, name, options = flag.known.group or None, flag.name, _options(flag)
        if title not in made:
            made[title] = parser.add_argument_group(title)
        if several and flag.place in several:
            name, options["nargs"] = f"--{several[flag.place]}", "+"
        if flag.place in taken or name in parser._option_string_actions:
            raise UsageError(
                f"{cls.__name__}.{flag.place}, {name}: the command has one of that name: give the field and its flag "
                f"others"
            )
        made[title].add_argument(name, dest=flag.place, default=argparse.SUPPRESS, help=_help(flag, unsaid), **options)


def _type_of(hint: Any) -> Any:
    """Of one value of a flag; that of a Literal is what its values are."""
    inner = element(hint)
    return type(typing.get_args(inner)[0]) if typing.get_origin(inner) is typing.Literal else inner


def _options(flag: Flag) -> dict[str, Any]:
    known, hint = flag.known, flag.hint
    if hint is bool:
        return {"action": "store_false" if flag.default is True else "store_true"}
    names = known.metavar.split() if known.metavar else None
    metavar: Any = None if names is None else names[0] if len(names) == 1 else tuple(names)
    kind: Any = known.word or {int: whole, float: number}.get(_type_of(hint), str)
    options: dict[str, Any] = {"type": kind, "metavar": metavar}
    if known.repeated:
        options["action"] = "append"
    elif typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        options["nargs"] = "+" if inner[-1] is Ellipsis else len(inner)
    elif typing.get_origin(hint) is list:
        options["nargs"] = "+"
    return options


def _help(flag: Flag, unsaid: Mapping[str, Any]) -> str:
    said, default = flag.known.help, unsaid.get(flag.place, flag.default)
    names = [str(x) for x in typing.get_args(flag.hint)] if typing.get_origin(flag.hint) is typing.Literal else []
    if not all(name in said for name in names):
        said = f"{said}: {', '.join(names)}"
    # By what it is, for 0 is equal to False; a bool's flag stands for the opposite of its default.
    silent = default is dataclasses.MISSING or default is None or isinstance(default, bool)
    shown = " ".join(map(str, default)) if isinstance(default, (tuple, list)) else str(default)
    if not silent and shown and "default" not in said:
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
        raise refused(error, cls, args, file, more) from None


def refused(
    error: Wrong,
    cls: type,
    args: argparse.Namespace,
    file: pathlib.Path | None = None,
    more: Mapping[str, str] | None = None,
) -> UsageError:
    """What a command says of a setting that cannot be; arguments as for `build`."""
    names = {**{flag.place: flag.name for flag in flags_of(cls)}, **(more or {})}
    # A flag that is not a setting, such as --quality, says nothing of a setting of that name in a file.
    typed = hasattr(args, error.place) and error.place.partition(".")[0] in settings_of(cls)
    if file is not None and not typed:
        return UsageError(f"{file}: {error}")
    if error.lacking:
        lacking = ", ".join(names.get(place, place) for place in error.lacking)
        return UsageError(f"{lacking}: expected, for there is no default")
    return UsageError(f"{names.get(error.place, error.place)}: {error.said}" if error.place else error.said)


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
