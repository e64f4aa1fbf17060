"""Results of a machine: one JSON file in benchmarks/results/, and what replaces what in it.

    {"schema": 1, "machine": {…}, "runs": {id: {…}}, "rows": [{…}]}

A row is a benchmark: `file`, `test`, `group`, `backend`, `run` and `extra`, with either `min_s`, `median_s` and
`rounds`, or `skipped`, `failed`, and why. Only times of one run are comparable, so a run replaces every group that it
has timed as a whole: the rows of a group are always from the same run.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from . import lines
from .recording import LEFT_OUT

FOLDER = Path(__file__).resolve().parent / "results"
SCHEMA = 1

Row = dict[str, Any]
Results = dict[str, Any]


def empty(machine: dict[str, Any]) -> Results:
    """Results without rows."""
    return {"schema": SCHEMA, "machine": machine, "runs": {}, "rows": []}


def read(file: Path) -> Results:
    """Reads a results file.

    Raises:
        ValueError: it is not a results file, or of another schema.
    """
    try:
        found = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{file.name}: expected JSON of benchmarks.run: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise ValueError(f"{file.name}: expected results of schema {SCHEMA}, made by benchmarks.run")
    return found


def read_all(folder: Path = FOLDER) -> list[Results]:
    """All results files of a folder, by name."""
    return [read(file) for file in sorted(folder.glob("*.json"))]


def read_rows(file: Path) -> list[Row]:
    """The rows that a run has written so far, after the line that says which run; one that was cut off is left out."""
    return [line for line in lines.read(file) if "test" in line]


def write(file: Path, results: Results) -> None:
    """Writes a results file at once: a reader sees the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".results-", suffix=".part")
    with os.fdopen(handle, "w") as part:
        part.write(text)
    os.chmod(name, 0o644)
    os.replace(name, file)


def measured(row: Row) -> bool:
    """Whether a row has a time."""
    return "min_s" in row


def _key(row: Row) -> tuple[str, str]:
    return row["file"], row["test"]


def group_of(row: Row) -> tuple[str, str | None]:
    """What tells a group from all others."""
    return row["file"], row["group"]


def whole(rows: list[Row], cut: bool) -> list[str]:
    """The files of which nothing failed, was left out or was cut off."""
    files = list(dict.fromkeys(row["file"] for row in rows))
    broken = {row["file"] for row in rows if "failed" in row or row.get("skipped", "").startswith(LEFT_OUT)}
    return [file for file in files if file not in broken and not (cut and file == files[-1])]


def merge(
    old: Results, rows: list[Row], run: str, about: dict[str, Any], machine: dict[str, Any], *, cut: bool = False
) -> Results:
    """Puts the rows of a run in their place.

    Args:
        old: results so far, of the same machine.
        rows: of the run, without `run`.
        run: its name, the time at which it began.
        about: its command, versions, commit and so on.
        machine: as it is now.
        cut: whether the run was stopped, so that what has no row may merely not have been reached.
    """
    # What was merely left out because time ran out does not push out what an earlier run has measured; nor do the other
    # rows of its group, for a ratio needs both sides in one run.
    left_out = {_key(row) for row in rows if row.get("skipped", "").startswith(LEFT_OUT)}
    reached = {_key(row) for row in rows} - left_out
    unreached = [r for r in old["rows"] if measured(r) and (_key(r) in left_out or (cut and _key(r) not in reached))]
    stay = {group_of(row) for row in unreached}
    rows = [row for row in rows if group_of(row) not in stay]
    timed = {group_of(row) for row in rows if row["group"] and _key(row) not in left_out}
    done = {_key(row) for row in rows} - left_out
    kept = [row for row in old["rows"] if group_of(row) not in timed and _key(row) not in done]
    known = {_key(row) for row in kept}
    added = [row | {"run": run} for row in rows if _key(row) not in left_out or _key(row) not in known]
    merged = kept + added
    order = {name: place for place, name in enumerate(dict.fromkeys(row["file"] for row in [*old["rows"], *merged]))}
    merged.sort(key=lambda row: order[row["file"]])
    runs = {**old["runs"], run: about}
    used = {row["run"] for row in merged}
    return {
        "schema": SCHEMA,
        "machine": machine,
        "runs": {name: runs[name] for name in sorted(runs) if name in used},
        "rows": merged,
    }
