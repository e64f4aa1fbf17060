"""The runs in a folder that is evaluated, and the rows that they make."""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ...errors import UsageError
from ...runs import files
from ...runs.configuration import differences, look_up
from ...runs.folder import application_of, status
from ...runs.settings import settings_of
from .. import registry
from ..entry import Entry
from ..variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is measured: its application, its configuration, and that as plain settings."""

    entry: Entry
    configuration: Any
    plain: dict[str, Any]


def find_runs(folder: pathlib.Path, *, others: bool = True) -> dict[str, Run]:
    """The runs in a folder, finished or not, by the names of their folders.

    Args:
        folder: with a run in each subfolder.
        others: whether the command can be told where an application is that is not one of this package's.

    Raises:
        UsageError: it does not hold a run, or one's `config.yaml` is damaged.
    """
    found: dict[str, Run] = {}
    for path in sorted(folder.glob("*/config.yaml")):
        entry = registry.of_folder(path.parent)
        if entry is not None:
            configuration = entry.application.read(path.parent)
            try:
                found[path.parent.name] = Run(entry, configuration, entry.described(configuration))
            except UsageError as error:
                raise UsageError(f"{path.parent}: {error}") from None
    if not found:
        if not folder.is_dir():
            raise UsageError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}")
        theirs = {application_of(path.parent) for path in folder.glob("*/config.yaml")} - {None}
        if theirs:
            names = " and ".join(sorted(map(str, theirs)))
            if not others:
                raise UsageError(f"{folder} holds runs of {names}, which are not of this package")
            commands = {str(status(path.parent).get("command")) for path in folder.glob("*/config.yaml")}
            places = {command.removeprefix("ldp-fast run ") for command in commands if ":" in command}
            where = places.pop() if len(places) == 1 else "MODULE:NAME"
            raise UsageError(f"{folder} holds runs of {names}: say where that is, with --application {where}")
        raise UsageError(f"{folder} does not hold runs (folders with config.yaml)")
    return found


def rows_of(
    runs: dict[str, Run], objects: Sequence[dict[str, Any]]
) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The objects of each configuration: what tells it from the others, and its objects.

    Prompt, seed and what no result depends on, such as the device, are left aside.

    Args:
        runs: by the names of their folders.
        objects: each with its `folder`.
    """
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    kinds: dict[str, dict[str, Any]] = {}
    for found in objects:
        run = runs[found["folder"]]
        about = settings_of(type(run.configuration))
        aside = {"prompt", "seed", *(name for name, setting in about.items() if not setting.about_result)}
        kind = {k: v for k, v in run.plain.items() if k not in aside}
        key = json.dumps(kind, sort_keys=True, default=str)
        kinds[key] = kind
        groups[key].append(found)
    rows: list[dict[str, Any]] = []
    for key, group in groups.items():
        settings = kinds[key]["settings"]
        lambdas = {name: settings[f"lambda_{name}"] for name in ("lsd", "fm", "kl")}
        rows.append(
            {
                "method": kinds[key]["method"],
                "losses": " + ".join(name.upper() for name, value in lambdas.items() if value)
                or kinds[key].get("guided_by", "none"),
                **{f"lambda_{name}": value for name, value in lambdas.items()},
                "folders": [found["folder"] for found in group],
            }
        )
    _name_differences(rows, list(kinds.values()))
    order = list(VARIANTS.values())

    def place(row: tuple[dict[str, Any], list[dict[str, Any]]]) -> tuple[str, int]:
        return row[0]["method"], order.index(row[0]["losses"]) if row[0]["losses"] in order else len(order)

    return sorted(zip(rows, groups.values(), strict=True), key=place)


def _name_differences(rows: list[dict[str, Any]], kinds: list[dict[str, Any]]) -> None:
    """Says of rows with the same method and losses what tells them apart."""
    for i, row in enumerate(rows):
        alike = [j for j, r in enumerate(rows) if (r["method"], r["losses"]) == (row["method"], row["losses"])]
        names = sorted({name for j in alike for name in differences(files.plain(kinds[i]), files.plain(kinds[j]))})
        row["settings"] = {name: look_up(kinds[i], name) for name in names}
