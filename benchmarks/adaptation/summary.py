"""Records as numbers with intervals: of a way over all targets, of a target, and of two ways picture by picture.

All records are of the same z's. So several of them (of seeds, of targets) do not make more independent pictures: what
each picture has is averaged for each z first, and intervals are over z's.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ldp_fast.metrics.truth import wilson_interval

from ..terms.summary import Mean, mean_of

# Of a record's measures: those that each picture has, and those that all have together.
EACH, WHOLE = ("cosine", "view", "grey"), ("fid", "pairs", "solids", "size")
SHARES = ("hit", "kept", "right")
HIGHER = {
    "cosine": True,
    "fid": False,
    "pairs": True,
    "solids": True,
    "hit": True,
    "right": True,
    "kept": True,
    "view": True,
}
Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """Some records, of one way: one target's (of all seeds), or all of them.

    Attributes:
        records: `found` of each.
        seconds: that each took; none: they took none.
        seeds: of their runs; none: they are of no run.
    """

    records: Sequence[Record]
    seconds: Sequence[float] = ()
    seeds: Sequence[int] = ()

    def of(self, seeds: Collection[int]) -> Row:
        """The records of some seeds; all of them where they are of no run."""
        if not self.seeds:
            return self
        mine = [place for place, seed in enumerate(self.seeds) if seed in seeds]
        seconds = [self.seconds[place] for place in mine] if self.seconds else ()
        return Row([self.records[place] for place in mine], seconds, [self.seeds[place] for place in mine])

    def by_seed(self) -> dict[int, Row]:
        """The records of each seed."""
        return {seed: self.of([seed]) for seed in dict.fromkeys(self.seeds)}

    def over_seeds(self, name: str) -> Mean | None:
        """The mean of the seeds' numbers, and their standard deviation; None of one seed alone."""
        numbers = [row.number(name) for row in self.by_seed().values()]
        there = [x for x in numbers if x is not None]
        if len(there) < max(2, len(numbers)):
            return None
        return Mean(statistics.fmean(there), statistics.stdev(there))

    def mean(self, name: str) -> Mean | None:
        """Over z's, with an interval; of what pictures have together, over records, without one."""
        if name in WHOLE:
            return Mean(statistics.fmean(record[name] for record in self.records), 0.0) if self.records else None
        return mean_of(averages(self.records, name))

    def share(self, name: str) -> dict[str, Any]:
        """The share of pictures that are so, with Wilson's interval, and of how many z's."""
        return share_of(averages(self.records, name), len(self.records))

    def number(self, name: str) -> float | None:
        """The mean or the share, alone."""
        if name in SHARES:
            found = self.share(name)
            return float(found["share"]) if found["images"] else None
        mean = self.mean(name)
        return None if mean is None else mean.value


def values(record: Record, name: str) -> list[float]:
    """Of each picture a number, or 1 for yes and 0 for no."""
    if name == "right" and name not in record:
        return [float(not failing) for failing in record["failing"]]
    return [float(value) for value in record[name]]


def averages(records: Sequence[Record], name: str) -> list[float]:
    """Of each z the mean over records."""
    return [statistics.fmean(each) for each in zip(*(values(record, name) for record in records), strict=True)]


def averaged(records: Sequence[Record]) -> Record:
    """Some records of the same z's as one: of each z the mean, and the means of what pictures have together."""
    found: dict[str, Any] = {name: averages(records, name) for name in (*EACH, *SHARES)}
    return found | {name: statistics.fmean(record[name] for record in records) for name in WHOLE}


def share_of(parts: Sequence[float], records: int) -> dict[str, Any]:
    """The share of pictures that are so, with Wilson's interval.

    Several pictures of one z are alike, but not the same: they count as so many independent ones as would spread the
    share as much as the z's do, at least one a z, and no more than there are.

    Args:
        parts: of each z the share of its pictures.
        records: pictures of each z.
    """
    count = len(parts)
    if not count:
        return {"images": 0, "share": 0.0, "interval": wilson_interval(0, 0)}
    share = statistics.fmean(parts)
    spread = statistics.variance(parts) / count if count > 1 else 0.0
    single = share * (1 - share)
    # All or none of them: nothing says how alike they are.
    worth = count * records if single else count
    if spread:
        worth = min(worth, max(count, round(single / spread)))
    return {"images": count, "share": share, "interval": wilson_interval(share * worth, worth)}  # type: ignore[arg-type]


def against(pairs: Sequence[tuple[Record, Record]]) -> dict[str, Any]:
    """Records beside others of the same z's, picture by picture.

    Args:
        pairs: of each seed a record and the other.

    Returns:
        Of `SHARES` how many pictures are so here and not there, and the other way round, of one seed (the mean over
        seeds); of what each picture has the mean difference, of each z's mean over seeds; of what all have together
        the mean difference.
    """
    found: dict[str, Any] = {}
    for name in SHARES:
        both = [list(zip(values(one, name), values(other, name), strict=True)) for one, other in pairs]
        gained = statistics.fmean(sum(a > b for a, b in seed) for seed in both)
        found[name] = (gained, statistics.fmean(sum(b > a for a, b in seed) for seed in both))
    mine, theirs = (averaged(records) for records in zip(*pairs, strict=True))
    for name in EACH:
        found[name] = mean_of([a - b for a, b in zip(mine[name], theirs[name], strict=True)])
    return found | {name: mine[name] - theirs[name] for name in WHOLE}


def better(one: Record, other: Record, name: str) -> bool | None:
    """Whether a record has the better number of a measure; None where they are the same but for rounding."""
    a, b = Row([one]).number(name), Row([other]).number(name)
    if a is None or b is None or math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12):
        return None
    return (a > b) == HIGHER[name]
