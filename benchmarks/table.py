"""Rows of results as Markdown tables, one a group.

python -m benchmarks.table benchmarks/results/amd-epyc-2-cores.json
python -m benchmarks.table out/renderer.json             # of pytest --benchmark-json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .recording import VARIED
from .results import Row, measured

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
LIMIT = "bare convolutions"


def digits(value: float, count: int = 3) -> str:
    """A number with so many significant digits, without an exponent and without digits that are not there."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = int(f"{value:.{count - 1}e}".partition("e")[2])  # of what it is rounded to: 9.999 is 10.0
    return f"{value:.{max(0, count - 1 - size)}f}"


def unit_of(rows: Iterable[Row]) -> tuple[float, str]:
    """The unit in which the shortest of the times is at least half a unit: its seconds, its name."""
    shortest = min((row["min_s"] for row in rows if measured(row)), default=1.0)
    return next((unit for unit in UNITS if shortest >= 0.5 * unit[0]), UNITS[-1])


def name_of(row: Row) -> str:
    """The backend, and what else tells rows of a group apart."""
    return row["backend"] + "".join(f", {key} {row['extra'][key]}" for key in VARIED if key in row["extra"])


def device_seconds(row: Row) -> float | None:
    """What a measured call takes a GPU, without what the host takes to start it; on a CPU what it takes.

    None where the call could not be captured: its time has the host's in it, and is not to be compared.
    """
    return None if "not_captured" in row["extra"] else row["extra"].get("device_s", row["min_s"])


def find(rows: Iterable[Row], backend: str) -> Row | None:
    """The measured row of a backend; None if there is none."""
    return next((row for row in rows if row["backend"] == backend and measured(row)), None)


def limit_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row of the bare convolutions in the precision of another row."""
    limits = [r for r in rows if r["backend"].startswith(LIMIT) and measured(r)]
    return next((r for r in limits if r["extra"].get("dtype") == row["extra"].get("dtype")), None)


def groups(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their group, in order; those without one are left out."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["group"]:
            found.setdefault(row["group"], []).append(row)
    return found


def columns_of(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """The columns of a group: heading to what stands in the rows, by their number; empty columns are left out."""
    seconds, unit = unit_of(rows)
    timed = {i: row for i, row in enumerate(rows) if measured(row)}
    naive = find(rows, "naive")
    devices = {i: spent for i, row in timed.items() if (spent := device_seconds(row)) is not None}
    ours = [s for i, s in devices.items() if timed[i]["backend"].startswith("ours")]
    ours = ours or [s for i, s in devices.items() if timed[i]["backend"] == "ldp_fast"]
    columns: dict[str, dict[int, str]] = {
        f"min {unit}": {i: digits(row["min_s"] / seconds, 4) for i, row in timed.items()},
        f"median {unit}": {i: digits(row["median_s"] / seconds, 4) for i, row in timed.items()},
    }
    for side in ("device", "host"):  # of a GPU (benchmarks/captured.py)
        found = {i: row["extra"].get(f"{side}_s") for i, row in timed.items()}
        marks = {i: " (eager)" if side == "device" and "eager" in row["extra"] else "" for i, row in timed.items()}
        columns[f"{side} {unit}"] = {i: digits(s / seconds, 4) + marks[i] for i, s in found.items() if s is not None}
    if naive is not None:
        columns["times as fast as naive"] = {i: digits(naive["min_s"] / row["min_s"]) for i, row in timed.items()}
    elif ours and len(ours) < len(timed):
        columns["× ours"] = {i: f"{s / min(ours):.1f}" for i, s in devices.items()}
    peaks = {i: _peak(row) for i, row in timed.items() if _peak(row) is not None}
    columns["peak MB"] = {i: f"{peak:.0f}" for i, peak in peaks.items() if peak is not None}
    of_naive = _peak(naive) if naive is not None else None
    if of_naive:
        columns["of naive's"] = {i: f"{peak / of_naive:.2f}" for i, peak in peaks.items() if peak is not None}
    limits = {i: limit for i, row in timed.items() if (limit := limit_of(row, rows)) is not None}
    columns["share of the limit"] = {
        i: f"{100 * limit['min_s'] / timed[i]['min_s']:.0f} %" for i, limit in limits.items() if limit is not timed[i]
    }
    return {heading: cells for heading, cells in columns.items() if cells}


def _peak(row: Row) -> float | None:
    extra = row["extra"]
    if "peak_bytes" in extra:
        return extra["peak_bytes"] / 2**20
    return extra.get("peak_megabytes")


def group_table(rows: Sequence[Row]) -> list[str]:
    """The lines of one table; what was not measured says why in its first column."""
    columns = columns_of(rows) if any(measured(row) for row in rows) else {"min": {}}
    lines = ["| | " + " | ".join(columns) + " |", "|---" + "|---:" * len(columns) + "|"]
    for i, row in enumerate(rows):
        cells = [column.get(i, "") for column in columns.values()]
        if not measured(row):
            cells[0] = why_not(row)
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in (name_of(row), *cells)) + " |")
    return lines


def why_not(row: Row) -> str:
    """Why a row has no time."""
    return f"failed: {row['failed']}" if "failed" in row else row.get("skipped", "not measured")


def pivot(rows: Sequence[Row]) -> list[str]:
    """One table for many groups: a line a group, a column a backend, minima in milliseconds.

    Of a GPU the device's time, and the host's in brackets.
    """
    named: dict[str, dict[str, Row]] = {}
    for group, members in groups(rows).items():
        for row in members:
            varied = name_of(row).removeprefix(row["backend"])
            named.setdefault(group + varied, {})[row["backend"]] = row
    named = {name: cells for name, cells in named.items() if any(map(measured, cells.values()))}
    backends = list(dict.fromkeys(backend for cells in named.values() for backend in cells))
    lines = ["| ms | " + " | ".join(backends) + " |", "|---" + "|---:" * len(backends) + "|"]
    for name, cells in named.items():
        shown = [_milliseconds(cells.get(backend)) for backend in backends]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines if named else []


def _milliseconds(row: Row | None) -> str:
    if row is None or not measured(row):
        return "" if row is None else "–"
    host, device = row["extra"].get("host_s"), device_seconds(row)
    if device is None:
        return f"{digits(1e3 * row['min_s'])} in all"
    eager = " eager" if "eager" in row["extra"] else ""
    return digits(1e3 * device) + eager + (f" ({digits(1e3 * host)})" if host is not None else "")


def all_groups(rows: Iterable[Row]) -> str:
    """The tables of all groups in which something was measured."""
    found = {group: members for group, members in groups(rows).items() if any(map(measured, members))}
    return "\n".join("\n".join([f"**{group}**", "", *group_table(members), ""]) for group, members in found.items())


def rows_of(report: dict[str, Any]) -> list[Row]:
    """The rows of a results file, or of pytest-benchmark's JSON."""
    if "rows" in report:
        return report["rows"]
    rows = []
    for benchmark in report["benchmarks"]:
        stats, extra = benchmark["stats"], dict(benchmark["extra_info"])
        row = {"file": "", "test": benchmark["name"], "group": benchmark["group"] or benchmark["name"], "extra": extra}
        row |= {"backend": str(extra.pop("backend", benchmark["name"]))}
        rows.append(row | {"min_s": stats["min"], "median_s": stats["median"], "rounds": stats.get("rounds", 0)})
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a results file, or JSON of pytest-benchmark")
    print(all_groups(rows_of(json.loads(parser.parse_args().report.read_text()))))


if __name__ == "__main__":
    main()
