"""Records as numbers with intervals: of a way over all targets, of a target, and of two ways picture by picture."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..terms.summary import Mean, mean_of, share_of

# Of a record's measures: those that each picture has, and those that all have together.
EACH, WHOLE = ("cosine", "view", "grey"), ("fid", "pairs", "size")
SHARES = ("hit", "kept", "right")
HIGHER = {"cosine": True, "fid": False, "pairs": True, "hit": True, "right": True, "kept": True, "view": True}
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """Some records, of one way: one target's (of all seeds), or all of them.

    Attributes:
        records: `found` of each.
        seconds: that they took, of those that took any.
        seeds: of their runs; none: there is one.
    """

    records: Sequence[Record]
    seconds: Sequence[float] = ()
    seeds: Sequence[int] = ()

    def by_seed(self) -> dict[int, Row]:
        """The records of each seed."""
        seeds = self.seeds or [0] * len(self.records)
        found: dict[int, list[Record]] = {}
        for seed, record in zip(seeds, self.records, strict=True):
            found.setdefault(seed, []).append(record)
        return {seed: Row(records, (), [seed] * len(records)) for seed, records in found.items()}

    def over_seeds(self, name: str) -> Mean | None:
        """The mean of the seeds' numbers, and their standard deviation; None of one seed alone."""
        numbers = [row.number(name) for row in self.by_seed().values()]
        there = [x for x in numbers if x is not None]
        if len(there) < max(2, len(numbers)):
            return None
        return Mean(statistics.fmean(there), statistics.stdev(there))

    def mean(self, name: str) -> Mean | None:
        """Of all pictures, with an interval over them; of what pictures have together, over records, without one."""
        if name in WHOLE:
            return Mean(statistics.fmean(record[name] for record in self.records), 0.0) if self.records else None
        return mean_of([value for record in self.records for value in record[name]])

    def share(self, name: str) -> dict[str, Any]:
        """How many pictures are so, with Wilson's interval."""
        return share_of([bool(value) for record in self.records for value in answers(record, name)])

    def number(self, name: str) -> float | None:
        """The mean or the share, alone."""
        if name in SHARES:
            found = self.share(name)
            return float(found["share"]) if found["images"] else None
        mean = self.mean(name)
        return None if mean is None else mean.value


def answers(record: Record, name: str) -> list[bool]:
    """Of each picture yes or no."""
    return [not failing for failing in record["failing"]] if name == "right" else list(record[name])


def together(records: Sequence[Record]) -> Record:
    """Some records as one: every picture of each, and the means of what pictures have together."""
    found: dict[str, Any] = {
        name: [value for record in records for value in record[name]] for name in (*EACH, "hit", "kept", "failing")
    }
    return found | {name: statistics.fmean(record[name] for record in records) for name in WHOLE}


def against(one: Record, other: Record) -> dict[str, Any]:
    """A record beside another of the same z's, picture by picture.

    Returns:
        Of `SHARES` how many pictures are so here and not there, and the other way round; of what each picture has the
        mean difference; of what all have together the difference.
    """
    found: dict[str, Any] = {}
    for name in SHARES:
        pairs = list(zip(answers(one, name), answers(other, name), strict=True))
        found[name] = (sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
    for name in EACH:
        found[name] = mean_of([a - b for a, b in zip(one[name], other[name], strict=True)])
    return found | {name: one[name] - other[name] for name in WHOLE}


def better(one: Record, other: Record, name: str) -> bool | None:
    """Whether a record has the better number of a measure; None where they are the same."""
    a, b = Row([one]).number(name), Row([other]).number(name)
    if a is None or b is None or a == b:
        return None
    return (a > b) == HIGHER[name]
