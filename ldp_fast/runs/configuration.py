"""A run's typed configuration: a frozen dataclass of sections; as plain data, as YAML, as a fingerprint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from ..errors import UsageError
from . import files
from .settings import as_plain, settings_of, typed

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """The base of an application's configuration."""

    # Of the command that runs it; stands in config.yaml.
    application: ClassVar[str] = ""

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """From dicts and lists, as YAML and JSON have them.

        Raises:
            Wrong: a name that is not known, a value of another type or out of its range.
        """
        found = typed(cls, plain)
        found.check()
        return found

    def check(self) -> None:
        """Checks what concerns several fields at once; single fields are checked by their limits.

        Raises:
            Wrong: names the field.
        """

    def plain(self) -> dict[str, Any]:
        """As dicts and lists."""
        plain: dict[str, Any] = as_plain(self)
        return plain

    def fingerprint(self) -> str:
        """A digest of what the run's result depends on; checkpoints carry it."""
        relevant = {k: v for k, v in self.plain().items() if settings_of(type(self))[k].about_result}
        return hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()


def differences(before: Any, after: Any, name: str = "") -> Iterator[str]:
    """Names of the settings that differ between two plain configurations, such as `settings.lambda_fm`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
    elif before != after:
        yield name


def look_up(plain: Any, name: str) -> Any:
    """The setting of that name; None if there is no such setting."""
    for part in name.split("."):
        plain = plain.get(part) if isinstance(plain, dict) else None
    return plain


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Plain settings with others merged over them, section by section."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        found[name] = merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return found


def write(folder: pathlib.Path, configuration: Configuration) -> None:
    """Writes config.yaml, atomically."""
    files.write_atomically(folder / "config.yaml", as_yaml(configuration).encode())


def as_yaml(configuration: Configuration) -> str:
    """What config.yaml says."""
    import yaml

    head = {"format": FORMAT, "application": configuration.application}
    return str(yaml.safe_dump({**head, **configuration.plain()}, sort_keys=False, allow_unicode=True))


def read_yaml(path: pathlib.Path, *, partly: bool = False) -> dict[str, Any]:
    """Reads a configuration as plain data; `application` among it where the file names one.

    Args:
        path: of the file.
        partly: whether the file may say a part alone, and leave out the format.

    Raises:
        UsageError: it is missing or damaged, or of another format.
    """
    import yaml

    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except IsADirectoryError:
        raise UsageError(f"{path}: expected a file, got a folder") from None
    except NotADirectoryError:
        raise UsageError(f"{path.parent} is not a folder") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    number = found.get("format", FORMAT if partly else None) if isinstance(found, dict) else type(found).__name__
    if found is None:
        raise UsageError(f"{path}: expected a configuration of format {FORMAT}, but the file is empty")
    if number != FORMAT or isinstance(number, bool):
        raise UsageError(f"{path}: expected a configuration of format {FORMAT}, got {number}")
    return {name: value for name, value in found.items() if name != "format"}


@functools.cache
def _loader() -> Any:
    """PyYAML's safe loader, for which 1e-3 is a number too, as in YAML 1.2."""
    import yaml

    # libyaml's, where PyYAML was built with it, reads a configuration in a tenth of the time.
    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        pass

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    return Loader
