"""What a command line asks of an evaluation, typed and checked."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from ...errors import UsageError
from ...metrics import frechet
from ...metrics.pictures import WHITE
from .arguments import ALIKE, DISTRACTORS, INCEPTION, RESIZERS
from .gathered import SEEDS, Looking, kind_of
from .verdicts import DREAMFIELDS, PAPER

MOST_SIDE = 4096  # pixels that pictures are resized to


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of all metrics; what a metric does not have is as it is by default, and None was not said.

    Attributes are named as their flags, see `ldp-fast evaluate METRIC --help`; `paths` are the PATHs.
    """

    metric: str
    paths: Sequence[pathlib.Path]
    against: Sequence[pathlib.Path] | None = None
    application: str | None = None
    background: Sequence[int] = WHITE
    device: str | None = None
    out: pathlib.Path | None = None
    json: bool = False
    seeds: Sequence[int] | None = None
    elevation: Sequence[float] | None = None
    clip: Sequence[str] | None = None
    prompt: str | None = None
    truncate: bool = False
    protocol: str = PAPER
    distractors: int | None = None
    prompts: pathlib.Path | None = None
    candidates: str | None = None
    features: str = INCEPTION
    weights: pathlib.Path | None = None
    resizer: str | None = None
    subsets: int = frechet.SUBSETS
    subset_size: int | None = None
    seed: int = 0
    backbone: str | None = None
    size: int | None = None
    alike: int | None = None

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Self:
        """Those of a parsed command line.

        Raises:
            UsageError: one is out of range, or has no effect beside the others.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        found = cls(**{name: value for name, value in words.items() if name in names})
        found.check()
        return found

    def check(self) -> None:
        """Refuses options that are out of range, or have no effect beside the others."""
        if self.seeds and min(self.seeds) < 0:
            raise UsageError(f"--seeds: expected at least 0, got {min(self.seeds)}")
        if self.elevation is not None and not -90 <= self.elevation[0] <= self.elevation[1] <= 90:
            low, high = self.elevation
            raise UsageError(f"--elevation: expected -90 <= LOW <= HIGH <= 90, got {low:g} {high:g}")
        if not all(0 <= value <= 255 for value in self.background):
            raise UsageError(f"--background: expected three numbers from 0 to 255, got {list(self.background)}")
        if self.prompt is not None and not self.prompt.strip():
            raise UsageError("--prompt: expected a caption, got an empty one")
        for name in ("seed", "alike"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"--{name}: expected at least 0, got {getattr(self, name)}")
        if self.size is not None and not 1 <= self.size <= MOST_SIDE:
            raise UsageError(f"--size: expected 1 to {MOST_SIDE}, got {self.size}")
        if self.distractors is not None and self.distractors < 1:
            raise UsageError(f"--distractors: expected at least 1, got {self.distractors}")
        if self.alike is not None and self.against:
            raise UsageError("--alike: expected without --against, whose pairs are those of one name")
        if self.resizer is not None and self.features != INCEPTION:
            raise UsageError(f"--resizer: expected only with --features {INCEPTION}, got --features {self.features}")
        for name in ("distractors", "seeds", "elevation") if self.protocol == DREAMFIELDS else ():
            if getattr(self, name) is not None:
                raise UsageError(
                    f"--{name}: expected only with --protocol {PAPER}; {DREAMFIELDS} takes the whole list, and a fixed "
                    f"camera"
                )

    def check_paths(self, paths: Sequence[pathlib.Path]) -> None:
        """Refuses paths that are not there, and cameras where nothing is looked at, before anything is written.

        Raises:
            UsageError: see above.
        """
        kinds = {kind_of(path) for path in [*paths, *(self.against or ())]}
        idle = ("elevation",) if self.metric == "r-precision" else ("elevation", "seeds")
        for name in idle if kinds == {"pictures"} else ():
            if getattr(self, name) is not None:
                raise UsageError(f"--{name}: expected with runs, which are looked at; got folders of pictures alone")

    def looking(self) -> Looking:
        """How runs are looked at."""
        height = (self.elevation[0], self.elevation[1]) if self.elevation is not None else None
        seeds = self.seeds or (SEEDS[:1] if self.metric == "lpips" else SEEDS)
        return Looking(tuple(dict.fromkeys(seeds)), height, self.device, out=self.out)

    @property
    def most_alike(self) -> int:
        """How many of the most alike pairs are shown."""
        return ALIKE if self.alike is None else self.alike

    @property
    def others(self) -> int:
        """How many distractors a picture has."""
        return DISTRACTORS if self.distractors is None else self.distractors

    @property
    def inception_resizer(self) -> str:
        """How Inception's pictures are resized."""
        return self.resizer or RESIZERS[0]
