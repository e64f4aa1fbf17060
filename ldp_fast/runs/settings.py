"""Fields of typed configurations: what each means, and within which limits; checked when they are read.

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Optimiser:
        rate: float = setting("step of the optimiser", flag="learning-rate", above=0)

Types are checked by pydantic, which is imported at the first check: `--help` needs nothing but Python. They may be int,
float, bool, str, Literal, tuples and lists of them, NamedTuples, dicts, other such dataclasses, and `| None`.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import shortened


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a field of a configuration is: see `setting`."""

    help: str
    flag: str | None = None
    metavar: str | None = None
    group: str | None = None
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    ordered: bool = False
    expected: str | None = None
    spelling: Callable[[str], str] | None = None
    word: Callable[[str], Any] | None = None
    repeated: bool = False
    omitted: bool = False
    about_result: bool = True


def setting(help: str, *, default: Any = dataclasses.MISSING, **options: Any) -> Any:
    """A field of a configuration.

    Args:
        help: its meaning in one line, with the unit.
        default: what it is where nothing is said; without one it has to be said.
        flag: its name on the command line, without the dashes; None: it has none. A bool's flag is given without a
            value, and stands for the opposite of the default.
        metavar: what stands for the value in the help; two words for a pair.
        group: of the help.
        low, high, above, below: limits of its numbers; the second two are not reached.
        ordered: a pair whose first number may not be the larger one.
        expected: the range in words, for the message; by default made from the limits.
        spelling: makes one spelling of several, such as hyphens from underscores.
        word: makes the value of a word of the command line, where the type alone does not say how.
        repeated: a list whose flag is given once for each of its values.
        omitted: left out of the YAML where it is the default, for settings that came later: records of before are as
            they were. Its default is not to change.
        about_result: whether the run's result depends on it; if not, it is not part of the fingerprint.
    """
    return dataclasses.field(default=default, metadata={"setting": Setting(help, **options)})


def hyphens(word: str) -> str:
    """`latent_nerf` as `latent-nerf`."""
    return word.replace("_", "-")


def underscores(word: str) -> str:
    """`latent-nerf` as `latent_nerf`."""
    return word.replace("-", "_")


class Wrong(ValueError):
    """A setting that cannot be: where it stands (`optimizer.learning_rate`), and what is wrong with it.

    Args:
        place: of the setting; empty where it is wrong as a whole.
        said: what is wrong.
        lacking: places of settings that have to be there.
    """

    def __init__(self, place: str, said: str, lacking: Sequence[str] = ()):
        super().__init__(f"{place}: {said}" if place else said)
        self.place, self.said, self.lacking = place, said, tuple(lacking)


def settings_of(cls: Any) -> dict[str, Setting]:
    """What a section's fields are, by name."""
    return _settings_of(cls)


# By itself, for a cache would have a caller show that its class is hashable, which mypy does not see of a dataclass.
@functools.cache
def _settings_of(cls: Any) -> dict[str, Setting]:
    return {f.name: f.metadata.get("setting", Setting("")) for f in dataclasses.fields(cls)}


@functools.cache
def hints(cls: Any) -> dict[str, Any]:
    """The types of a configuration's fields, by name."""
    return typing.get_type_hints(cls)


def without_none(hint: Any) -> Any:
    """`X` of `X | None`."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [x for x in typing.get_args(hint) if x is not type(None)]
        return rest[0] if len(rest) == 1 else typing.Union[tuple(rest)]  # noqa: UP007
    return hint


def element(hint: Any) -> Any:
    """The type of what a tuple or a list holds; of anything else the type itself."""
    inner = typing.get_args(hint)
    return inner[0] if typing.get_origin(hint) in (tuple, list) else hint


def as_plain(value: Any) -> Any:
    """A configuration, or a part of it, as dicts and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        known, fields = settings_of(type(value)), {f.name: f.default for f in dataclasses.fields(value)}
        held = {name: getattr(value, name) for name in known}
        return {name: as_plain(x) for name, x in held.items() if not (known[name].omitted and x == fields[name])}
    if isinstance(value, Mapping):
        return {name: as_plain(x) for name, x in value.items()}
    if isinstance(value, (tuple, list)):
        return [as_plain(x) for x in value]
    return value


@functools.cache
def _adapter(cls: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    for section in _sections(cls):
        section.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    return TypeAdapter(cls)


def _sections(cls: type) -> Iterator[Any]:
    yield cls
    for hint in hints(cls).values():
        inner = without_none(hint)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            yield from _sections(inner)


def typed(cls: type, plain: Mapping[str, Any]) -> Any:
    """A dataclass from dicts and lists, every type, name and limit checked.

    Raises:
        Wrong: what is wrong with the first that is.
    """
    from pydantic import ValidationError

    try:
        # By way of JSON, for which pydantic's strictness takes lists for tuples and whole numbers for real ones.
        text = json.dumps(_spelled(cls, plain))
    except (TypeError, ValueError) as error:
        raise Wrong("", f"expected numbers, words, lists and sections: {error}") from None
    try:
        found = _adapter(cls).validate_json(text)
    except ValidationError as error:
        raise _said(cls, error.errors(include_url=False)) from None
    _check_limits(found, "")
    return found


def _spelled(cls: type, plain: Any) -> Any:
    if not isinstance(plain, Mapping):
        return plain
    found = {}
    for name, value in plain.items():
        known = settings_of(cls).get(str(name))
        if known and known.spelling and isinstance(value, str):
            value = known.spelling(value)
        inner = without_none(hints(cls)[name]) if known else None
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            value = _spelled(inner, value)
        found[str(name)] = value
    return found


def _said(cls: type, errors: Sequence[Mapping[str, Any]]) -> Wrong:
    """The first of pydantic's complaints in one sentence; all names that are missing, if that is the first."""
    # One that is missing under a number is a value of a list that is too short.
    missing = [e for e in errors if e["type"] == "missing" and isinstance(e["loc"][-1], str)]
    # A name that is not known first: it is most often the one that is missing, misspelt.
    first = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
    place = place_of(first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        section = _hint_at(cls, first["loc"][:-1])
        names = list(settings_of(section)) if dataclasses.is_dataclass(section) else []
        close = difflib.get_close_matches(str(first["loc"][-1]), names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected some of {', '.join(names)}"
        return Wrong(place, f"there is no such setting; {hint}")
    if first in missing:
        lacking = [place_of(error["loc"]) for error in missing]
        return Wrong("", f"it lacks {', '.join(lacking)}", lacking)
    expected = _words(first, _length(_hint_at(cls, first["loc"])))
    return Wrong(place, f"expected {expected}, got {as_said(first['input'])}")


def as_said(value: Any) -> str:
    """A value for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and all(isinstance(x, (int, float)) for x in value):
        return " ".join(as_said(x) for x in value) or "nothing"
    return shortened(repr(value))


_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a section of settings",
    "dataclass_type": "a section of settings",
    "tuple_type": "a list",
    "list_type": "a list",
    "none_required": "nothing",
    "arguments_type": "a list of numbers",
}


def _words(error: Mapping[str, Any], length: int | None) -> str:
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return f"one of {str(context['expected']).replace(chr(39), '').replace(' or ', ', ')}"
    if error["type"] in ("missing", "missing_argument", "unexpected_positional_argument", "too_long", "too_short"):
        return f"{length} values" if length else "another number of values"
    if error["type"] in ("tuple_type", "named_tuple_type") and length:
        return f"a list of {length} values"
    return _KINDS.get(error["type"], str(error["msg"]).lower())


def _length(hint: Any) -> int | None:
    """How many values a tuple has; None for what is not one, or has as many as you like."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        return None if Ellipsis in inner else len(inner)
    return len(hint._fields) if isinstance(hint, type) and hasattr(hint, "_fields") else None


def place_of(location: Sequence[int | str]) -> str:
    """`optimizer.learning_rate`, `cameras.elevation`; the index in a list is left out."""
    return ".".join(str(part) for part in location if isinstance(part, str) and part != "[key]")


def _hint_at(cls: type, location: Sequence[int | str]) -> Any:
    """The type of what stands there, without `| None`; of a list's value the list's. None where nothing can stand."""
    hint: Any = cls
    for part in location:
        if isinstance(part, int):
            break
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            hint = without_none(hints(hint).get(part))
        elif typing.get_origin(hint) is dict and part != "[key]":
            hint = without_none(typing.get_args(hint)[1])
        else:
            return None
    return hint


def _check_limits(section: Any, place: str) -> None:
    for name, known in settings_of(type(section)).items():
        value, where = getattr(section, name), f"{place}.{name}" if place else name
        if dataclasses.is_dataclass(value):
            _check_limits(value, where)
        elif value is not None and not within(value, known):
            cls: Any = type(section)
            whole = element(without_none(hints(cls)[name])) is int
            raise Wrong(where, f"expected {known.expected or _limits(known, whole)}, got {as_said(value)}")


def within(value: Any, known: Setting) -> bool:
    """Whether a setting's numbers are finite and within its limits."""
    numbers = [x for x in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(x, (int, float))]
    inside = all(
        math.isfinite(x)
        and (known.low is None or x >= known.low)
        and (known.high is None or x <= known.high)
        and (known.above is None or x > known.above)
        and (known.below is None or x < known.below)
        for x in numbers
    )
    return inside and (not known.ordered or numbers[0] <= numbers[-1])


def _limits(known: Setting, whole: bool) -> str:
    kind = "LOW HIGH" if known.ordered else "a whole number" if whole else "a number"
    low, high, above, below = (_shown(x) for x in (known.low, known.high, known.above, known.below))
    if low and high:
        return f"{kind} between {low} and {high}"
    if low and below:
        return f"{kind} from {low} to less than {below}"
    if low:
        return f"{kind} of at least {low}"
    if above:
        return "a positive number" if known.above == 0 else f"{kind} above {above}"
    return f"{kind} of at most {high}" if high else f"{kind} that is finite"


def _shown(limit: float | None) -> str:
    return "" if limit is None else str(int(limit)) if float(limit).is_integer() else f"{limit:g}"
