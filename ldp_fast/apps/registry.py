"""The applications that sweeps and evaluations work on, by the names of their commands; imported when asked for.

Somebody's own application is one of them too: a package names its `Entry` under the entry point
`ldp_fast.applications`, or `--application MODULE:NAME` says where it is (docs/your_own_application.md).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ..errors import UsageError, reason
from ..runs.folder import application_of
from ..runs.settings import hyphens
from .entry import Entry

ENTRY_POINTS = "ldp_fast.applications"
_ROOMS = {"text-to-3d": "text_to_3d", "synthesize": "synthesis"}
# Those that were found as MODULE:NAME, by their applications' names, which their runs' folders carry.
_found: dict[str, Entry] = {}


def names() -> tuple[str, ...]:
    """Of all applications that are installed."""
    return (*_ROOMS, *sorted(point.name for point in _installed() if point.name not in _ROOMS))


def _installed() -> Sequence[importlib.metadata.EntryPoint]:
    return tuple(importlib.metadata.entry_points(group=ENTRY_POINTS))


def find(name: str) -> Entry:
    """The application of that name, or the one at MODULE:NAME.

    Raises:
        UsageError: it is missing, or cannot be imported.
    """
    if ":" in name:
        return _at(name)
    name = hyphens(name)
    if name in _ROOMS:
        room = importlib.import_module(f"ldp_fast.apps.{_ROOMS[name]}.entry")
        return _checked(name, room.ENTRY)
    for point in _installed():
        if hyphens(point.name) == name:
            return _at(point.value)
    raise UsageError(f"application: expected one of {', '.join(names())}, or MODULE:NAME; got {name!r}")


def _at(place: str) -> Entry:
    module, _, name = place.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a command is typed, its modules are expected
    try:
        entry = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a module of somebody else's does; LDP_FAST_DEBUG=1 shows where
        raise UsageError(f"application: {place} cannot be imported: {reason(error)}") from error
    return _checked(place, entry)


def _checked(place: str, entry: Any) -> Entry:
    if not isinstance(entry, Entry):
        raise UsageError(f"application: expected {place} to be an Entry of ldp_fast.apps.entry, got {entry!r:.60}")
    name = entry.application.name
    if name in _ROOMS and place != name:
        raise UsageError(
            f"application: {place} has the name of another one, {name!r}: give its Application another name"
        )
    _found[name] = entry
    return entry


def of_folder(folder: pathlib.Path) -> Entry | None:
    """The application whose run a folder holds; None where it does not hold one of these."""
    name = application_of(folder)
    if name is None or name in _found:
        return _found.get(name or "")
    return find(name) if name in names() else None
