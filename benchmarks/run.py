"""Runs the benchmarks and keeps what they measured in benchmarks/results/<machine>.json.

    make bench                             # everything that this machine can
    make bench BENCH="-k decoder"          # a part; the rest of the file stays as it is
    python -m benchmarks.run --seconds 600 benchmarks/bench_step.py

Rows are also written to benchmarks/results/<time>.jsonl as they come (not in version control). What cannot be measured
here is a row that says why.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import goals, machine, microbenchmarks, results, table

ROOT = Path(__file__).resolve().parents[1]
# What the goals are about comes first, in case that time runs out.
FIRST = ("bench_step.py", "bench_decoder.py", "bench_feature_matching.py", "bench_renderer.py")
GRACE = 90
QUICK = ["--benchmark-only", "--benchmark-max-time=0.1", "--benchmark-min-rounds=3", "--benchmark-columns=min,median"]


def benchmark_files() -> list[str]:
    """All files of benchmarks, in the order in which they are run."""
    names = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))
    return [f"benchmarks/{name}" for name in [*FIRST, *(name for name in names if name not in FIRST)]]


def commit() -> dict[str, Any]:
    """What git says of the code that is measured; nothing where it does not know."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    name, changes = git("rev-parse", "--short=10", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return {"commit": name, "changed": bool(changes)} if name else {"commit": None, "changed": False}


def memory_rates() -> list[results.Row]:
    """What the GPU's memory allows (benchmarks/microbenchmarks.py), as rows."""
    base: results.Row = {"file": "microbenchmarks.py", "group": "rates of the GPU's memory", "extra": {}}
    reason = microbenchmarks.missing()
    if reason is not None:
        return [base | {"test": "rates", "backend": "rates", "skipped": reason}]
    rows = []
    for kind in microbenchmarks.KINDS:
        for megabytes in microbenchmarks.MEGABYTES:
            rate = microbenchmarks.measure(kind, megabytes)
            extra = {"kind": kind, "megabytes": megabytes, "accesses": rate.accesses, "per_second": rate.per_second}
            row = {"test": f"{kind}-{megabytes}", "backend": f"{kind}, {megabytes} MB", "extra": extra}
            rows.append(base | row | {"min_s": rate.seconds, "median_s": rate.seconds, "rounds": 1})
    return rows


def arguments_of(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """This command's options, and what goes to pytest."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the results")
    parser.add_argument("--seconds", type=float, help="start no benchmark later than this; left out ones are rows")
    parser.add_argument("--rates", action="store_true", help="the GPU's memory too; without arguments it is measured")
    parser.add_argument("--command", help="what is named as the command that was run")
    return parser.parse_known_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns pytest's status, and keeps what was measured whatever that is."""
    options, rest = arguments_of(arguments)
    chosen = [a for a in rest if a.startswith("benchmarks/")]
    everything = not rest
    run = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    options.out.mkdir(parents=True, exist_ok=True)
    rows_file = options.out.resolve() / f"{run.replace(':', '').replace('-', '')}.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK, f"--rows={rows_file}"]
    command += [f"--seconds={options.seconds:g}"] if options.seconds else []
    command += rest if chosen else [*benchmark_files(), *rest]
    about = {
        "command": options.command or ("make bench" if everything else f'make bench BENCH="{shlex.join(rest)}"'),
        "date": run,
        "threads": min(2, torch.get_num_threads()),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": machine.versions(),
        **commit(),
    }
    start = time.monotonic()
    # Of its own, also where a test of a distributed run calls this: pytest-benchmark times nothing in a worker.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    try:
        # Rows are kept as they come, so what is cut off loses one benchmark, not the run.
        limit = options.seconds and options.seconds + GRACE
        status = subprocess.run(command, cwd=ROOT, env=environment, timeout=limit).returncode
    except subprocess.TimeoutExpired:
        print(f"benchmarks: stopped {GRACE} s after the last benchmark might begin", file=sys.stderr)
        status = 0
    rows = results.read_rows(rows_file) + (memory_rates() if everything or options.rates else [])
    about["seconds"] = round(time.monotonic() - start)
    if not rows:
        print("benchmarks: nothing was run", file=sys.stderr)
        return status or 1
    file = options.out / f"{machine.slug()}.json"
    facts = machine.describe()
    old = results.read(file) if file.exists() else results.empty(facts)
    merged = results.merge(old, rows, run, about, facts)
    results.write(file, merged)
    print(table.all_groups([row for row in merged["rows"] if row["run"] == run]))
    print(goals.table([merged]))
    print(f"{len(rows)} rows in {about['seconds']} s: {os.path.relpath(file)}")
    return status


if __name__ == "__main__":
    sys.exit(main())
