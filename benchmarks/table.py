"""Turns pytest-benchmark's JSON into Markdown tables, one a group.

python -m pytest benchmarks/bench_renderer.py --benchmark-json=out/renderer.json
python -m benchmarks.table out/renderer.json
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

VARIED = ("rays", "samples", "log2_table_size", "deterministic")


def tables(report: dict[str, Any]) -> str:
    """Returns the tables: minimum and median in milliseconds, and times the fastest of `ours`."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark in report["benchmarks"]:
        groups[benchmark["group"] or benchmark["name"]].append(benchmark)
    lines: list[str] = []
    for group, rows in groups.items():
        ours = [row["stats"]["min"] for row in rows if str(row["extra_info"].get("backend", "")).startswith("ours")]
        lines += [f"**{group}**", "", "| | min ms | median ms | × ours | peak MB |", "|---|---:|---:|---:|---:|"]
        for row in rows:
            extra, stats = row["extra_info"], row["stats"]
            name = extra.get("backend", row["name"])
            name += "".join(f", {key} {extra[key]}" for key in VARIED if key in extra)
            ratio = f"{stats['min'] / min(ours):.1f}" if ours and len(ours) < len(rows) else ""
            memory = extra.get("peak_megabytes") or ""
            lines.append(f"| {name} | {1e3 * stats['min']:.4g} | {1e3 * stats['median']:.4g} | {ratio} | {memory} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="JSON of pytest-benchmark")
    print(tables(json.loads(parser.parse_args().report.read_text())))


if __name__ == "__main__":
    main()
