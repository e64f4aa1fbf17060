"""`make gpu`: builds, tests and measures on this machine's GPU, most valuable first.

    python -m benchmarks.gpu --out benchmarks/results
    python -m benchmarks.gpu --minutes 20 --only "real size" tests

A stage that fails or whose time is over stops none of those that follow. What has passed with the same sources on the
same machine, by the lines in the folder, is not run again (--again). The exit code is 1 if a stage failed.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from . import environment, schedule, stages

ROOT = stages.ROOT
SOURCES = ("csrc", "kernels", "ldp_fast", "benchmarks", "tests", "setup.py", "pyproject.toml")
NOT_SOURCES = {".so", ".pyc", ".pyd"}


def digest() -> str:
    """Of everything that is built, tested or timed, whether or not there is a repository around it."""
    total = hashlib.sha256()
    files = [file for name in SOURCES for file in sorted([ROOT / name, *(ROOT / name).rglob("*")]) if file.is_file()]
    for file in files:
        place = file.relative_to(ROOT)
        if file.suffix not in NOT_SOURCES and place.parts[:2] != ("benchmarks", "results"):
            total.update(f"{place}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:16]


def minutes(text: str) -> float:
    """A number of minutes."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number of minutes above 0, got {text!r}")
    return value


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(prog="make gpu", description=__doc__, formatter_class=form, allow_abbrev=False)
    made.add_argument("--out", type=Path, required=True, help="folder to write to, eight files at most")
    made.add_argument("--minutes", type=minutes, default=8.0, help="limit of the whole run, in minutes (default: 8)")
    made.add_argument("--only", nargs="+", metavar="STAGE", help="run only these stages, and those that they need")
    made.add_argument("--again", action="store_true", help="run also what has passed before")
    made.add_argument(
        "--python",
        action="append",
        default=[],
        help="interpreter to use if its torch sees a GPU; may be given several times",
    )
    made.add_argument("--wheels", type=Path, default=environment.WHEELS, help="folder of wheels (make gpu-offline)")
    made.add_argument("--commit", default="", help="commit that the results name, if git does not know it")
    made.add_argument("--rehearse", action="store_true", help="run on a stand-in for the GPU, without a build")
    return made


def summary(all_lines: Sequence[schedule.Line], out: Path) -> str:
    """What is printed last."""
    files = sorted(file.name for file in out.iterdir() if file.is_file() and not file.name.startswith("."))
    width = max(len(line.stage) for line in all_lines)
    rows = [f"  {line.stage:<{width}}  {schedule.describe(line).removeprefix(line.stage + ': ')}" for line in all_lines]
    return "\n".join(["", "make gpu:", *rows, f"in {out}: {', '.join(files)}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = parser().parse_args(arguments)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    book = schedule.Book(out / "stages.jsonl", out / "tests.jsonl", digest())
    run = stages.Run(out, book, rehearse=options.rehearse, again=options.again)
    run.wheels, run.commit = options.wheels, options.commit
    # A path is one from here, whatever folder it is started in; a name is looked up.
    named = [str(Path(name).absolute()) if "/" in name else name for name in options.python]
    run.candidates = named or run.candidates
    run.since = book.size()
    chosen = stages.all_of(run)
    if options.only:
        names = [stage.name for stage in chosen]
        if unknown := [name for name in options.only if name not in names]:
            print(f"make gpu: --only: expected some of {', '.join(names)}, got {unknown[0]!r}", file=sys.stderr)
            return 2
        chosen = [stage for stage in chosen if stage.name in options.only or stage.again]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stages are ended, and what they have is written
    lock = alone(out)
    if lock is None:
        print(f"make gpu: another run is writing to {out}", file=sys.stderr)
        return 2
    try:
        done = schedule.run(chosen, 60 * options.minutes, book, again=options.again, say=say_to(run.log))
    except KeyboardInterrupt:
        print(f"\nmake gpu: interrupted; what was done is in {out}", file=sys.stderr)
        return 130
    finally:
        lock.close()
    say_to(run.log)(summary(done, out))
    return exit_code(done, options.rehearse)


def alone(out: Path) -> IO[str] | None:
    """A lock on the folder, until it is closed or this process ends; None if another run has it.

    It is the log's: a file of its own would be one more of those that are left.
    """
    lock = (out / stages.LOG).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def exit_code(done: Sequence[schedule.Line], rehearse: bool) -> int:
    """1 if a stage failed; a rehearsal has to get through its tests as well."""
    whole = stages.REHEARSED if rehearse else ()
    short = [x for x in done if x.stage in whole and x.status not in ("passed", "passed before")]
    return 1 if short or any(line.status == "failed" for line in done) else 0


def say_to(log: Path):  # type: ignore[no-untyped-def]
    """Prints a line, and keeps it."""

    def say(text: str) -> None:
        # A closed pipe or a full disk ends no run.
        with contextlib.suppress(OSError):
            print(text, flush=True)
        with contextlib.suppress(OSError), log.open("a") as file:
            print(text, file=file)

    return say


if __name__ == "__main__":
    sys.exit(main())
