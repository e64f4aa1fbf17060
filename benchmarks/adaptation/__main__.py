"""`python -m benchmarks.adaptation`: see the package's text, or `--help`."""

from __future__ import annotations

import argparse
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

from .. import experiment
from . import __doc__ as about
from . import page, renders, runs
from .measures import Judges, domain_of, measure, quantised, truth_of
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


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = experiment.parser(NAME, about)
    made.add_argument("--targets", nargs="+", default=list(TARGETS), metavar="CAPTION", help="prompts (default: six)")
    ways = ", ".join(GUIDANCES)
    made.add_argument(
        "--variants", nargs="*", default=list(GUIDANCES), metavar="NAME", help=f"of {ways} (default: all)"
    )
    made.add_argument(
        "--variant", action="append", default=[], metavar="NAME=WORDS", help="one more way, as adapt's flags say it"
    )
    made.add_argument("--words", default="", metavar="WORDS", help="flags of adapt for every way, in one word")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="of the runs (default: 0)")
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
    if not _cells(args):
        raise UsageError("--variants: expected at least one way, here or as --variant")
    if args.page is not None:
        experiment.check_page(args.page, page.MARKS)
    return Plan.of(args.samples, args.views, args.judged, args.sample_seed)


def _cells(args: argparse.Namespace) -> list[Cell]:
    return cells(list(dict.fromkeys(args.targets)), variants(args.variants, args.variant), args.seeds)


def _work(args: argparse.Namespace, plan: Plan, asked: Callable[[], bool]) -> None:
    ends = experiment.end_of(args.limit_minutes)
    source = load(plan.generator)
    judges, shown = Judges(args.judge or judge_of(MODEL)), Shown.of(plan, source.z_dim)
    work = _Work(args.out, plan, shown, judges, ends, asked)
    wanted, before = _cells(args), quantised(pictures(source, shown.z))
    made = 0
    for cell in wanted:
        if work.stop() or (args.limit_cells is not None and made >= args.limit_cells):
            break
        if runs.record_of(work.record(cell), judges) is not None:
            continue
        try:
            line = work.make(cell, before, shlex.split(args.words))
        except runs.Failed as error:
            print(error, flush=True)
            continue
        if line is None:
            break
        made += 1
        print(f"{work.done(wanted)} of {len(wanted)} cells: {line}; {work.expected(wanted)}", flush=True)
    where = page.write(args.out, plan, wanted, judges, _told(args), args.page)
    print(f"{where} (tables and figures)")


def _told(args: argparse.Namespace) -> str:
    """The command that makes all of it in one go, without where things are on this machine."""
    words = ["python -m benchmarks.adaptation --out DIR"]
    for name in (
        "targets",
        "variants",
        "variant",
        "words",
        "seeds",
        "samples",
        "views",
        "judged",
        "sample_seed",
        "judge",
    ):
        value = getattr(args, name)
        if value == parser().get_default(name):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "variant":
            words += [shlex.join([flag, said]) for said in value]
        else:
            words.append(shlex.join([flag, *map(str, value if isinstance(value, list) else [value])]))
    return " ".join([*words, "--page"])


class _Work:
    """Makes references and cells in the folder of an experiment.

    Args:
        out: the folder.
        plan: what they have in common.
        shown: z's and views.
        judges: the networks.
        ends: when to stop, of time.monotonic.
        asked: whether to stop before.
    """

    def __init__(
        self, out: pathlib.Path, plan: Plan, shown: Shown, judges: Judges, ends: float, asked: Callable[[], bool]
    ):
        self.out, self.plan, self.shown, self.judges = out, plan, shown, judges
        self.ends, self.asked = ends, asked
        self._took: list[float] = []

    def stop(self) -> bool:
        """Whether to."""
        return self.asked() or time.monotonic() > self.ends

    def record(self, cell: Cell) -> pathlib.Path:
        """Of a cell."""
        return self.out / "cells" / f"{cell.name}.json"

    def done(self, wanted: Sequence[Cell]) -> int:
        """How many there are."""
        return sum(runs.record_of(self.record(cell), self.judges) is not None for cell in wanted)

    def expected(self, wanted: Sequence[Cell]) -> str:
        """For people: what the others take."""
        left = len(wanted) - self.done(wanted)
        return f"{duration(left * statistics.fmean(self._took))} left" if left else "all are there"

    def make(self, cell: Cell, before: Tensor, words: Sequence[str]) -> str | None:
        """Makes a cell and the references of its target; says what came of it. None: it was stopped."""
        started = time.monotonic()
        scene = scene_of(cell.target)
        solid = renders.kept(self.out / "renders", scene, self.shown, self.stop)
        plain = renders.kept(self.out / "renders", SOURCE, self.shown, self.stop)
        if solid is None or plain is None:
            return None
        domain = domain_of(scene, solid, self.shown)

        def measured(images: Tensor, own: renders.Renders) -> dict[str, Any] | None:
            args = (self.shown, self.plan, self.judges, self.stop)
            return measure(images, cell.target, domain, own, *args)

        for kind, images, own in (
            (page.SOURCE, before, plain),
            (page.TRUTH, truth_of(scene, solid, self.shown), solid),
        ):
            file = page.sheet_of(self.out, cell.target, kind)
            if runs.record_of(file.with_suffix(".json"), self.judges) is None:
                found = measured(images, own)
                if found is None:
                    return None
                runs.keep(file, found, self.judges, images)
        folder = self.out / "runs" / cell.name
        seconds = runs.adapt(cell, folder, words, self.ends - time.monotonic(), self.asked)
        if seconds is None:
            return None
        images = runs.drawn(folder / "generator", self.shown.z)
        found = measured(images, solid)
        if found is None:
            return None
        runs.keep(self.out / "cells" / cell.name, found, self.judges, images, seconds=seconds)
        self._took.append(time.monotonic() - started)
        row = Row([found])
        numbers = {name: row.number(name) or 0.0 for name in ("hit", "right", "kept")}
        told = f"R-Precision {numbers['hit']:.0%}, right {numbers['right']:.0%}, kept {numbers['kept']:.0%}"
        return f"{cell.name}, {seconds:.0f} s: {told}, FID {found['fid']:.1f}, all pairs {found['pairs']:.3f}"


if __name__ == "__main__":
    sys.exit(main())
