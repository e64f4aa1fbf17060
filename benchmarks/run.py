"""Runs the benchmarks and keeps what they measured in benchmarks/results/<machine>.json.

    make bench                             # everything that this machine can
    make bench BENCH=contention            # benchmarks/bench_contention.py; the rest of the file stays as it is
    make bench BENCH="-k decoder"          # what pytest selects
    python -m benchmarks.run --seconds 600 benchmarks/bench_step.py

Rows are written to benchmarks/results/<time>.rows.jsonl as they come, until they are in their place: a run that is
killed leaves that file, and the next one takes what is in it. What cannot be measured here is a row that says why.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch

from tests.support import instruction_sets

from . import REHEARSING, goals, lines, machine, microbenchmarks, ongoing, rehearsal, results, table
from .gpu.processes import listens
from .recording import LEFT_OUT

ROOT = Path(__file__).resolve().parents[1]
# What the goals are about comes first, in case that time runs out.
FIRST = ("bench_step.py", "bench_decoder.py", "bench_feature_matching.py", "bench_renderer.py")
GRACE = 90
ONCE = ["--benchmark-disable"]
QUICK = ["--benchmark-only", "--benchmark-max-time=0.1", "--benchmark-min-rounds=3", "--benchmark-columns=min,median"]


def benchmark_files() -> list[str]:
    """All files of benchmarks, in the order in which they are run."""
    names = sorted(path.name for path in (ROOT / "benchmarks").glob("bench_*.py"))
    return [f"benchmarks/{name}" for name in [*FIRST, *(name for name in names if name not in FIRST)]]


def commit(otherwise: str | None = None) -> dict[str, Any]:
    """What git says of the code that is measured; where it does not know, what the caller says."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # What an earlier run has left does not change what is measured.
    measured = (".", ":!benchmarks/results", ":!docs")
    name = git("rev-parse", "--short=10", "HEAD")
    changes = git("status", "--porcelain", "--untracked-files=no", "--", *measured)
    return {"commit": name, "changed": bool(changes)} if name else {"commit": otherwise, "changed": False}


def memory_rates() -> list[results.Row]:
    """What the GPU's memory allows (benchmarks/microbenchmarks.py), as rows."""
    base: results.Row = {"file": "microbenchmarks.py", "group": "rates of the GPU's memory", "extra": {}}
    reason = microbenchmarks.missing()
    if reason is not None:
        return [base | {"test": "rates", "backend": "rates", "skipped": reason}]
    rows = []
    for kind in microbenchmarks.KINDS:
        for megabytes in microbenchmarks.MEGABYTES:
            try:
                rate = microbenchmarks.measure(kind, megabytes)
            except RuntimeError as error:  # what else was measured is to be kept
                return [*rows, base | {"test": "rates", "backend": "rates", "failed": str(error)[:300]}]
            extra = {"kind": kind, "megabytes": megabytes, "accesses": rate.accesses, "per_second": rate.per_second}
            row = {"test": f"{kind}-{megabytes}", "backend": f"{kind}, {megabytes} MB", "extra": extra}
            rows.append(base | row | {"min_s": rate.seconds, "median_s": rate.seconds, "rounds": 1})
    return rows


def arguments_of(arguments: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """This command's options, and what goes to pytest."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder to write the results to")
    parser.add_argument(
        "--seconds", type=float, help="after this many seconds no benchmark is started; those become rows that say so"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out files that an earlier run of the same selection and code has measured",
    )
    parser.add_argument(
        "--left-out-status", type=int, default=0, help="exit code if time ran out for some of them (default: 0)"
    )
    parser.add_argument(
        "--rates", action="store_true", help="measure the GPU's memory too, as is done without arguments"
    )
    parser.add_argument("--commit", help="commit that the results name, if git does not know it")
    parser.add_argument("--sources", help="digest of the code for --resume, if git does not know the commit")
    parser.add_argument("--command", help="command that the results name")
    return parser.parse_known_args(arguments)


def done_before(old: results.Results, selection: str, at: dict[str, Any]) -> set[str]:
    """Files that an earlier run of the same selection has measured as a whole, of the same sources or commit."""
    known = at.get("sources") or (None if at["changed"] else at["commit"])
    if known is None:
        return set()
    same = [about for about in old["runs"].values() if about.get("selection") == selection]
    same = [about for about in same if known in (about.get("sources"), about["commit"])]
    return {file for about in same for file in about.get("whole", ())}


def run_pytest(command: list[str], limit: float | None, held: IO[bytes]) -> tuple[int, bool]:
    """Runs the benchmarks, which hold what this run holds; returns pytest's status, and whether they were stopped."""
    # Of its own, also where a test of a distributed run calls this: pytest-benchmark times nothing in a worker.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    inherited: Any = {"pass_fds": [held.fileno()], "preexec_fn": listens} if os.name == "posix" else {}
    try:
        return subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, **inherited).returncode, False
    except subprocess.TimeoutExpired:
        print(f"benchmarks: stopped {GRACE} s after the last benchmark might begin", file=sys.stderr)
        return 0, True
    except KeyboardInterrupt:
        print("benchmarks: interrupted; what was measured is kept", file=sys.stderr)
        return 130, True


def with_files(words: list[str]) -> list[str]:
    """Arguments for pytest, in which the name of a benchmark stands for its file; what follows an option stays."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        file = f"benchmarks/bench_{word}.py"
        name = not before.startswith("-") and word.isidentifier() and (ROOT / file).exists()
        found.append(file if name else word)
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command; returns pytest's status, and keeps what was measured whatever that is."""
    options, given = arguments_of(arguments)
    with rehearsal():
        return measure(options, given)


def measure(options: argparse.Namespace, given: list[str]) -> int:
    """Runs the benchmarks that are given, and puts what they measured in its place."""
    rest = with_files(given)
    chosen = [a for a in rest if a.startswith("benchmarks/")]
    everything = not rest
    options.out.mkdir(parents=True, exist_ok=True)
    file, facts, at = options.out / f"{machine.slug()}.json", machine.describe(), commit(options.commit)
    at |= {"sources": options.sources} if options.sources else {}
    with ongoing.alone(options.out):
        ongoing.take_over(options.out, file)
        old = results.read(file) if file.exists() else results.empty(facts)
    selection = shlex.join(rest)
    known = done_before(old, selection, at) if options.resume else set()
    files = [name for name in benchmark_files() if Path(name).name not in known]
    if not chosen and not files:
        print("benchmarks: all of them were measured before, of this code")
        return 0
    run, rows_file, held = ongoing.begin(options.out, old["runs"])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rows={rows_file}"]
    command += ONCE if REHEARSING else QUICK
    command += [f"--seconds={options.seconds:g}"] if options.seconds else []
    command += rest if chosen else [*files, *rest]
    name = machine.limited_to()
    typed = "make bench" if everything else f'make bench BENCH="{shlex.join(given)}"'
    about = {
        "command": options.command or (f"{instruction_sets.VARIABLE}={name} {typed}" if name else typed),
        "date": run,
        "threads": min(2, torch.get_num_threads()),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": machine.versions(),
        **at,
    }
    if options.resume:
        about |= {"selection": selection, "whole": sorted(known)}
    start = time.monotonic()
    lines.add(rows_file, {"about": about, "machine": facts, "slug": file.stem})
    # Rows are kept as they come, so what is cut off loses one benchmark, not the run.
    status, cut = run_pytest(command, options.seconds and options.seconds + GRACE, held)
    held.close()
    rows = results.read_rows(rows_file)
    if options.resume:
        about["whole"] = sorted({*known, *results.whole(rows, cut)})
    rows += memory_rates() if (everything or options.rates) and not cut and not REHEARSING else []
    about["seconds"] = round(time.monotonic() - start)
    if not rows:
        rows_file.unlink(missing_ok=True)
        print("benchmarks: nothing was run", file=sys.stderr)
        return status or 1
    with ongoing.alone(options.out):  # another run may have ended meanwhile
        merged = results.merge(results.read(file) if file.exists() else old, rows, run, about, facts, cut=cut)
        results.write(file, merged)
        rows_file.unlink(missing_ok=True)
    print(table.all_groups([row for row in merged["rows"] if row["run"] == run]))
    print(goals.table([merged]))
    print(f"{len(rows)} rows in {about['seconds']} s: {os.path.relpath(file)}")
    late = cut or any(row.get("skipped", "").startswith(LEFT_OUT) for row in rows)
    return status or (options.left_out_status if late else 0)


if __name__ == "__main__":
    sys.exit(main())
