"""The clock of `make gpu`: stages one after the other, each with its limit, exit code and line; none stops the next.

A stage gets at most its share of the whole, and never what is kept for the last one. What was stopped or left out is
taken up when the others are through, with all the time that is left. What has passed with these sources on this machine
is not run again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import lines as kept

from .processes import Ended

SHARES_ARE_OF = 8 * 60.0
LEFT_OUT_STATUS = 75
ABSENT_STATUS = 77
NOTHING_TO_RUN = 5  # pytest's, where every test was left out


@dataclass(frozen=True)
class Stage:
    """Something to be run.

    Attributes:
        name: in the lines, the summary and on the command line.
        run: runs it with a limit in seconds.
        most: seconds that it may take of 8 minutes; proportionally more or less of others.
        least: seconds with less than which it is not begun.
        needed: whether nothing that follows can run when it fails.
        last: whether its seconds are kept for it, whatever comes before.
        again: whether it is run also where it has passed before.
        resumes: whether, taken up again, it goes on where it was.
    """

    name: str
    run: Callable[[float], Ended]
    most: float
    least: float = 5.0
    needed: bool = False
    last: bool = False
    again: bool = False
    resumes: bool = False


@dataclass
class Line:
    """How a stage went: `passed`, `failed`, `stopped` (its time was over), `left out` or `passed before`.

    `cut` says that its time was over, also of one that is `failed` because a test of it did before.
    """

    stage: str
    status: str
    seconds: float = 0.0
    allotted: float = 0.0
    code: int | None = None
    why: str = ""
    cut: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    sources: str = ""
    machine: str = ""


@dataclass
class Book:
    """The lines of this run and of earlier ones, kept in a file; and what tests have said."""

    file: Path
    outcomes: Path
    sources: str
    machine: str = ""

    def write(self, line: Line) -> None:
        """Adds a line at the file's end."""
        line.sources, line.machine = self.sources, self.machine
        kept.add(self.file, asdict(line))

    def status(self, stage: str) -> str | None:
        """The newest status of a stage with these sources on this machine."""
        found = None
        for line in kept.read(self.file):
            if (line["stage"], line["sources"], line["machine"]) == (stage, self.sources, self.machine):
                found = line["status"] if line["status"] not in ("passed before", "left out") else found
        return found

    def counts(self, stage: str, skip: int) -> dict[str, int]:
        """Outcomes of a stage's tests, after so many lines of the file."""
        lines = list(kept.read(self.outcomes))[skip:]
        return dict(Counter(line["outcome"] for line in lines if line["stage"] == stage))

    def known(self, stage: str, skip: int, *, again: bool = False) -> set[str]:
        """Tests that a stage need not run: ended after so many lines, or (unless `again`) passed before, with these
        sources on this machine."""
        found = set()
        for number, line in enumerate(kept.read(self.outcomes)):
            same = line["stage"] == stage and line["sources"] == self.sources and line["machine"] == self.machine
            if same and (number >= skip or (line["outcome"] == "passed" and not again)):
                found.add(line["test"])
        return found

    def size(self) -> int:
        """Lines of outcomes so far."""
        return sum(1 for _ in kept.read(self.outcomes))


def run(
    stages: Sequence[Stage],
    seconds: float,
    book: Book,
    *,
    again: bool = False,
    clock: Callable[[], float] = time.monotonic,
    say: Callable[[str], None] = print,
) -> list[Line]:
    """Runs the stages; returns a line for each, in order, the newest of those that were taken up again.

    Args:
        stages: in the order of their value.
        seconds: that all of them may take.
        book: where lines are kept.
        again: whether to run also what has passed before.
        clock: seconds.
        say: prints a line.
    """
    begun = clock()
    scale = seconds / SHARES_ARE_OF
    reserve = sum(stage.most for stage in stages if stage.last)
    lines: dict[str, Line] = {}

    def one(stage: Stage, share: float = scale) -> None:
        left = seconds - (clock() - begun) - (0.0 if stage.last else reserve)
        allotted = stage.most if stage.last else min(stage.most * share, left)
        if not again and not stage.again and book.status(stage.name) == "passed":
            line = Line(stage.name, "passed before")
        elif allotted < stage.least:
            line = Line(stage.name, "left out", why=f"{max(left, 0.0):.0f} s were left, it wants {stage.least:.0f}")
        else:
            say(f"== {stage.name}: at most {allotted:.0f} s of {max(left, 0.0):.0f}")
            before = book.size()
            ended = stage.run(allotted)
            line = judge(stage, ended, allotted, book.counts(stage.name, before))
        book.write(line)
        say(f"== {describe(line)}")
        lines[stage.name] = line

    ordinary = [stage for stage in stages if not stage.last]
    for stage in ordinary:
        one(stage)
        if stage.needed and lines[stage.name].status != "passed":
            return list(lines.values())
    for stage in ordinary:
        first = lines[stage.name]
        if stage.resumes and (first.cut or first.status == "left out"):
            if seconds - (clock() - begun) - reserve >= stage.least:
                one(stage, math.inf)
                _join(first, lines[stage.name])
    for stage in stages:
        if stage.last:
            one(stage)
    return [lines[stage.name] for stage in stages]


def judge(stage: Stage, ended: Ended, allotted: float, counts: dict[str, int]) -> Line:
    """A stage's line from how its command ended: its time being over is not a failure, a failed test before that is."""
    why, cut = "", ended.stopped or ended.code == LEFT_OUT_STATUS
    if cut:
        status = "failed" if counts.get("failed") else "stopped"
        why = "its time was over"
    elif ended.code == ABSENT_STATUS:
        status, why = "left out", last_words(ended)
    elif ended.code == 0 or (stage.resumes and ended.code == NOTHING_TO_RUN):
        status = "passed"
    else:
        status, why = "failed", last_words(ended)
    return Line(stage.name, status, round(ended.seconds, 1), round(allotted, 1), ended.code, why, cut, counts)


def last_words(ended: Ended) -> str:
    """The last line of an output."""
    return next((text for text in reversed(ended.tail) if text.strip()), "")[:300]


def _join(first: Line, second: Line) -> None:
    second.seconds = round(first.seconds + second.seconds, 1)
    if first.status == "failed" and second.status == "passed":
        second.status, second.why = "failed", first.why
    for name, count in first.counts.items():
        second.counts[name] = second.counts.get(name, 0) + count


def describe(line: Line) -> str:
    """A line for people."""
    text = f"{line.stage}: {line.status}"
    if line.allotted:
        text += f" after {line.seconds:.0f} of {line.allotted:.0f} s"
    if line.counts:
        text += ", " + ", ".join(f"{count} {name}" for name, count in sorted(line.counts.items()))
    return f"{text} ({line.why})" if line.why else text
