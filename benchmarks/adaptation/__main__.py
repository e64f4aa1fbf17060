"""`python -m benchmarks.adaptation`: see the package's text, or `--help`."""

from __future__ import annotations

import argparse
import functools
import pathlib
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ldp_fast.errors import UsageError
from ldp_fast.generators import load
from ldp_fast.generators.sampling import pictures
from ldp_fast.metrics import judge_of
from ldp_fast.runs.expectation import duration
from ldp_fast.zoo import world

from .. import experiment
from . import __doc__ as about
from . import made_by, page, renders, runs
from .measures import Judges, Seen, domain_of, kept, look, measure, quantised, truth_of
from .plan import (
    GUIDANCES,
    JUDGED,
    MODEL,
    SAMPLES,
    SEED,
    SOURCE,
    TARGETS,
    VIEWS,
    Cell,
    Plan,
    Shown,
    cells,
    scene_of,
    variants,
)
from .summary import Row

NAME = "benchmarks.adaptation"
# Options that decide what comes out.
TOLD = (
    "targets",
    "variants",
    "variant",
    "words",
    "seeds",
    "repeat",
    "samples",
    "views",
    "judged",
    "sample_seed",
    "judge",
)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = experiment.parser(NAME, about)
    made.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="CAPTION", help="prompts (default: six)")
    ways = ", ".join(GUIDANCES)
    made.add_argument(
        "--variants", nargs="*", default=list(GUIDANCES), metavar="NAME", help=f"of {ways} (default: all)"
    )
    made.add_argument(
        "--variant",
        action="append",
        nargs="+",
        default=[],
        metavar=("NAME=WORDS", "CAPTION"),
        help="another setting, as adapt's flags say it, in a table of its own; of all targets, or of those named here",
    )
    made.add_argument("--words", default="", metavar="WORDS", help="flags of adapt for every way, in one word")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="of the runs (default: 0)")
    made.add_argument(
        "--repeat",
        nargs="*",
        metavar="NAME",
        help="ways that are made with every seed, the others with the first alone (default: all)",
    )
    made.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"pictures (default: {SAMPLES})")
    made.add_argument("--views", type=int, default=VIEWS, metavar="N", help=f"others of a target (default: {VIEWS})")
    made.add_argument("--judged", type=int, default=JUDGED, metavar="N", help=f"by the truth (default: {JUDGED})")
    made.add_argument("--sample-seed", type=int, default=SEED, metavar="S", help=f"of the z's (default: {SEED})")
    made.add_argument("--limit-cells", type=int, metavar="N", help="make N cells at most, then write the page")
    made.add_argument("--limit-minutes", type=float, metavar="M", help="stop then; the same command continues")
    made.add_argument("--judge", metavar="CLIP", help="of the embedded world (default: its own judge)")
    made.add_argument(
        "--page",
        type=pathlib.Path,
        nargs="?",
        const=page.PAGE,
        metavar="FILE",
        help="write the results into a page too (default without FILE: docs/stylegan_adaptation.md)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 2 for what it refuses, 130 after an interruption, after which it continues."""
    args = parser().parse_args(arguments)
    return experiment.command(NAME, args.out, lambda: _plan(args), lambda plan, asked: _work(args, plan, asked))


def _plan(args: argparse.Namespace) -> Plan:
    experiment.check_limits(args)
    for target in args.targets:
        scene_of(target)
    if not (args.variants or args.variant):
        raise UsageError("--variants: expected at least one way, here or as --variant")
    _cells(args)
    if args.page is not None:
        experiment.check_page(args.page, page.MARKS)
    return Plan.of(args.samples, args.views, args.judged, args.sample_seed)


def _cells(args: argparse.Namespace) -> list[Cell]:
    ways = variants(args.variants, args.variant)
    return cells(list(dict.fromkeys(args.targets)), ways, args.seeds, args.repeat)


def _work(args: argparse.Namespace, plan: Plan, asked: Callable[[], bool]) -> None:
    ends = experiment.end_of(args.limit_minutes)
    source = load(plan.generator)
    judges, shown = Judges(args.judge or judge_of(MODEL)), Shown.of(plan, source.z_dim)
    before = functools.cache(lambda: quantised(pictures(source, shown.z)))
    code = made_by.adaptation()
    work = _Work(args.out, plan, shown, judges, code, before, ends, asked)
    wanted = _cells(args)
    words = shlex.split(args.words)
    for cell in wanted:
        runs.check_words(cell, runs.folder_of(args.out, cell), words, code)
    made = 0
    for cell in wanted:
        if work.stop() or (args.limit_cells is not None and made >= args.limit_cells):
            break
        if work.has(cell):
            continue
        try:
            line = work.make(cell, words)
        except runs.Failed as error:
            print(error, flush=True)
            continue
        if line is None:
            break
        made += 1
        print(f"{work.done(wanted)} of {len(wanted)} cells: {line}; {work.expected(wanted)}", flush=True)
    told = experiment.told(parser(), args, TOLD)
    old = runs.left_out((page.file_of(args.out, cell) for cell in wanted), judges, code)
    if old:
        print(f"left out: {old}; the same command makes them anew", flush=True)
    where = page.write(args.out, plan, wanted, judges, told, args.page, code)
    print(f"{where} (tables and figures)")


class _Work:
    """Makes references and cells in the folder of an experiment.

    Args:
        out: the folder.
        plan: what they have in common.
        shown: z's and views.
        judges: the networks.
        code: the digest of what adapts.
        before: makes the source's pictures, once.
        ends: when to stop, of time.monotonic.
        asked: whether to stop before.
    """

    def __init__(
        self,
        out: pathlib.Path,
        plan: Plan,
        shown: Shown,
        judges: Judges,
        code: str,
        before: Callable[[], Tensor],
        ends: float,
        asked: Callable[[], bool],
    ):
        self.out, self.plan, self.shown, self.judges = out, plan, shown, judges
        self.code, self.before, self.ends, self.asked = code, before, ends, asked
        self._took: list[float] = []
        self._domain: tuple[str, Tensor] | None = None

    def stop(self) -> bool:
        """Whether to."""
        return self.asked() or time.monotonic() > self.ends

    def has(self, cell: Cell) -> bool:
        """Whether a cell is there, by these measures and this code."""
        return runs.record_of(page.file_of(self.out, cell), self.judges, self.code) is not None

    def done(self, wanted: Sequence[Cell]) -> int:
        """How many there are."""
        return sum(self.has(cell) for cell in wanted)

    def expected(self, wanted: Sequence[Cell]) -> str:
        """For people: what the others take."""
        left = len(wanted) - self.done(wanted)
        return f"{duration(left * statistics.fmean(self._took))} left" if left else "all are there"

    def make(self, cell: Cell, words: Sequence[str]) -> str | None:
        """Makes a cell and the references of its target; says what came of it. None: it was stopped.

        Raises:
            Failed: the run of the cell did not finish.
            UsageError: other words were asked for under its name before; the code has changed meanwhile.
        """
        started = time.monotonic()
        scene = scene_of(cell.target)
        solid = renders.kept(self.out / "renders", scene, self.shown, self.stop)
        plain = renders.kept(self.out / "renders", SOURCE, self.shown, self.stop)
        if solid is None or plain is None:
            return None

        def measured(images: Tensor, seen: Seen) -> dict[str, Any] | None:
            return measure(
                images, cell.target, self._features_of(scene, solid), seen, self.plan, self.judges, self.stop
            )

        references: dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], Seen]]] = {
            page.SOURCE: (self.before, lambda images: self._source(images, plain)),
            page.TRUTH: (lambda: truth_of(scene, solid, self.shown), lambda images: self._look(images, solid)),
        }
        for kind, (shown, seen) in references.items():
            file = page.sheet_of(self.out, cell.target, kind)
            if runs.record_of(file.with_suffix(".json"), self.judges) is None:
                images = shown()
                found = measured(images, seen(images))
                if found is None:
                    return None
                runs.keep(file, found, self.judges, images)
        folder = runs.folder_of(self.out, cell)
        seconds = runs.adapt(cell, folder, words, self.ends - time.monotonic(), self.asked, self.code)
        if seconds is None:
            return None
        images = runs.drawn(folder / "generator", self.shown.z)
        found = measured(images, self._look(images, solid))
        if found is None:
            return None
        place = self.out / "cells" / cell.name
        runs.keep(place, found, self.judges, images, seconds=seconds, code=self.code)
        self._took.append(time.monotonic() - started)
        row = Row([found])
        numbers = {name: row.number(name) or 0.0 for name in ("hit", "right", "kept")}
        told = f"R-Precision {numbers['hit']:.0%}, right {numbers['right']:.0%}, kept {numbers['kept']:.0%}"
        return f"{cell.name}, {seconds:.0f} s: {told}, FID {found['fid']:.1f}, all pairs {found['pairs']:.3f}"

    def _look(self, images: Tensor, solid: renders.Renders) -> Seen:
        return look(images, solid, self.shown, self.judges)

    def _source(self, images: Tensor, plain: renders.Renders) -> Seen:
        """The same for every target: looked at once, and kept."""
        file = self.out / "references" / "source.safetensors"
        return kept(file, self.plan, self.judges, lambda: self._look(images, plain))

    def _features_of(self, scene: world.Scene, solid: renders.Renders) -> Tensor:
        """Of a target's renders from the other views; those of one target are held, for its cells follow each other."""
        name = scene.caption()
        if self._domain is None or self._domain[0] != name:
            self._domain = (name, self.judges.features(domain_of(scene, solid, self.shown)))
        return self._domain[1]


if __name__ == "__main__":
    sys.exit(main())
