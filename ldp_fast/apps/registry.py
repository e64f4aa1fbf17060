"""The applications that sweeps and evaluations work on, by the names of their commands; imported when asked for.

Somebody's own application is one of them too: a package names its `Entry` under the entry point
`ldp_fast.applications`, or `--application MODULE:NAME` says where it is (docs/your_own_application.md).
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import UsageError, reason
from ..runs.folder import application_of
from ..runs.settings import hyphens
from .entry import Entry

ENTRY_POINTS = "ldp_fast.applications"
_ROOMS = {"text-to-3d": "text_to_3d", "synthesize": "synthesis", "clip-mesh": "clip_mesh", "adapt": "adapt"}
_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
# Those that were found, by their applications' names, which their runs' folders carry.
_found: dict[str, Entry] = {}


def names() -> tuple[str, ...]:
    """Of all applications that are installed."""
    return (*_ROOMS, *sorted({point.name for point in _installed()}))


def _installed() -> Sequence[importlib.metadata.EntryPoint]:
    """The entry points of all packages; a name of ours stands for ours, and a package that is listed twice for one."""
    try:
        found = [*importlib.metadata.entry_points(group=ENTRY_POINTS)]
    except Exception:  # the metadata of any package may be damaged, whatever its entry points are for
        found = []
        for package in importlib.metadata.distributions():
            try:
                found += package.entry_points.select(group=ENTRY_POINTS)
            except Exception:
                continue
    distinct = {(point.name, point.value): point for point in found if hyphens(point.name) not in _ROOMS}
    return sorted(distinct.values(), key=lambda point: (point.name, _package(point), point.value))


def find(name: str) -> Entry:
    """The application of that name, or the one at MODULE:NAME.

    Raises:
        UsageError: it is missing, cannot be imported, or two packages have it.
    """
    if ":" in name:
        return _at(name)
    if hyphens(name) in _ROOMS:
        return _ours(hyphens(name))
    points = [point for point in _installed() if hyphens(point.name) == hyphens(name)]
    if len(points) > 1:
        packages = " and ".join(f"{_package(point)} ({point.value})" for point in points)
        raise UsageError(f"application: {name} is in {packages}: say which, by its MODULE:NAME")
    if points:
        return _kept(_loaded(points[0]), points[0].name)
    guess = f": did you mean {name}:ENTRY?" if _here(name) else ""
    raise UsageError(f"application: expected one of {', '.join(names())}, or MODULE:NAME; got {name!r}{guess}")


def _ours(name: str) -> Entry:
    room = importlib.import_module(f"ldp_fast.apps.{_ROOMS[name]}.entry")
    return _kept(_checked(name, room.ENTRY), "")


def _package(point: importlib.metadata.EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "one of them"


def _loaded(point: importlib.metadata.EntryPoint) -> Entry:
    """The Entry of an installed package."""
    place = f"{point.name} of the package {_package(point)}" if point.dist is not None else point.name
    return _checked(place, _imported(f"{place}, {point.value},", point.load))


def _at(place: str) -> Entry:
    """The Entry at MODULE:NAME, of a module of this folder or of Python's path."""
    module, _, name = place.partition(":")
    if not _DOTTED.fullmatch(module) or not _DOTTED.fullmatch(name) or pathlib.Path(module).is_file():
        raise UsageError(
            f"application: expected MODULE:NAME, the module as Python imports it, such as pixel_art:ENTRY or "
            f"package.module:ENTRY; got {place!r}"
        )
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a command is typed, its modules are expected
    other = _imported(place, lambda: _instead(module))
    if other is not None:
        raise UsageError(
            f"application: {_here(module)} is not what Python imports as {module}, which is {other}: give the file "
            f"another name"
        )
    found = _imported(place, lambda: functools.reduce(getattr, name.split("."), importlib.import_module(module)))
    return _kept(_checked(place, found), place)


def _imported(place: str, load: Callable[[], Any]) -> Any:
    """What a module of somebody else's has, whatever that does while it is imported.

    Raises:
        UsageError: says what; LDP_FAST_DEBUG=1 shows where.
    """
    try:
        return load()
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise UsageError(
            f"application: {place} cannot be imported: it ends Python (SystemExit: {error.code}); what it does as a "
            f'program belongs below if __name__ == "__main__"'
        ) from error
    except BaseException as error:
        raise UsageError(f"application: {place} cannot be imported: {reason(error)}") from error


def _here(module: str) -> pathlib.Path | None:
    """The file of a module in this folder, if there is one."""
    if not _DOTTED.fullmatch(module):
        return None
    path = pathlib.Path(*module.split("."))
    return next((file for file in (path / "__init__.py", path.with_name(f"{path.name}.py")) if file.is_file()), None)


def _instead(module: str) -> str | None:
    """What Python imports by a name in place of this folder's module; None where it is that, or there is none here.

    A module that is called like one of Python's or of a package is refused. Were it loaded in spite of that, then
    either by its own name, and whoever else imports that name would get it (pdb imports code); or by another, which
    neither a worker of a cluster nor the author's other modules could import.
    """
    file = _here(module)
    spec = importlib.util.find_spec(module) if file is not None else None
    if file is None or spec is None:
        return None
    origin = spec.origin if spec.has_location else None
    if origin is None:
        return "a part of Python"
    # It may lie in an archive.
    return None if os.path.exists(origin) and file.samefile(origin) else origin


def _checked(place: str, entry: Any) -> Entry:
    if not isinstance(entry, Entry):
        kind = f"the class {entry.__name__}" if isinstance(entry, type) else f"a value of type {type(entry).__name__}"
        raise UsageError(
            f"application: expected {place} to be an Entry of ldp_fast.apps.entry, as ldp_fast.apps.own.entry_of makes "
            f"one; got {kind}"
        )
    name = entry.application.name
    if name in _ROOMS and place != name:
        raise UsageError(
            f"application: {place} has the name of another one, {name!r}: give its Application another name"
        )
    return entry


def _kept(entry: Entry, name: str) -> Entry:
    """Makes it known to `of_folder`; its runs tell to go on with them by the name that it was found by, if any."""
    if name:
        application = dataclasses.replace(entry.application, command=f"ldp-fast run {name}")
        entry = dataclasses.replace(entry, application=application)
    _found[entry.application.name] = entry
    return entry


def of_folder(folder: pathlib.Path) -> Entry | None:
    """The application whose run a folder holds; None where it does not hold one of these.

    Where no entry point has the name of the application, all of them are imported, once.

    Raises:
        UsageError: the one of that name cannot be imported, or there are two.
    """
    name = application_of(folder)
    if name is None or name in _found:
        return _found.get(name or "")
    if name in _ROOMS:
        return _ours(name)
    if any(hyphens(point.name) == hyphens(name) for point in _installed()):
        find(name)
        if name in _found:
            return _found[name]
    points = _by_application().get(name, [])
    if len(points) > 1:
        several = " and ".join(point.name for point in points)
        raise UsageError(f"{folder} holds a run of {name}, as {several} are called: say which, with --application")
    return _kept(_loaded(points[0]), points[0].name) if points else None


@functools.cache
def _by_application() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """The entry points, by the names of their applications."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in _installed():
        try:
            found.setdefault(_loaded(point).application.name, []).append(point)
        except UsageError:  # told to whoever asks for it by name
            continue
    return found
