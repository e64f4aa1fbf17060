"""`python -m benchmarks.terms`: see the package's text, or `--help`."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior
from ldp_fast.metrics import ClipScorer, judge_of
from ldp_fast.runs import files
from ldp_fast.runs.expectation import duration

from .. import experiment
from . import __doc__ as about
from . import objects, page, references, runs
from .measures import Perception, thresholds
from .plan import GROUPS, MODEL, Cell, Plan, cells

NAME = "benchmarks.terms"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = experiment.parser(NAME, about)
    made.add_argument(
        "--prompts", type=int, default=24, metavar="N", help="random prompts, a picture each (default: 24)"
    )
    made.add_argument("--prompt-seed", type=int, default=7, metavar="S", help="seed of the prompts (default: 7)")
    made.add_argument("--steps", type=int, default=300, metavar="N", help="of an optimisation (default: 300)")
    made.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="S", help="of noise; all cells of one before the next"
    )
    made.add_argument(
        "--only", nargs="*", choices=GROUPS, metavar="GROUP", help=f"of {', '.join(GROUPS)}; without a name: none"
    )
    made.add_argument("--limit-cells", type=int, metavar="N", help="make N cells at most, then write the page")
    made.add_argument("--limit-minutes", type=float, metavar="M", help="stop then; the same command continues")
    made.add_argument(
        "--judge", metavar="CLIP", help="of the perceptual distance (default: the embedded model's judge)"
    )
    made.add_argument("--device", help="where to compute (default: a GPU if there is one)")
    made.add_argument("--objects", type=int, metavar="N", help="make objects of N prompts as well, after the cells")
    made.add_argument(
        "--page",
        type=pathlib.Path,
        nargs="?",
        const=page.PAGE,
        metavar="FILE",
        help="write the results into a page too (default without FILE: docs/what_the_terms_do.md)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 2 for what it refuses, 130 after an interruption, after which it continues."""
    args = parser().parse_args(arguments)
    return experiment.command(NAME, args.out, lambda: _plan(args), lambda plan, asked: _work(args, plan, asked))


def _plan(args: argparse.Namespace) -> Plan:
    experiment.check_limits(args)
    if args.prompt_seed < 0:
        raise UsageError(f"--prompt-seed: expected at least 0, got {args.prompt_seed}")
    if args.objects is not None and args.objects < 1:
        raise UsageError(f"--objects: expected at least 1, got {args.objects}")
    if args.page is not None:
        page.check(args.page)
    return Plan.of(args.prompts, args.prompt_seed, args.steps)


def _work(args: argparse.Namespace, plan: Plan, asked: Callable[[], bool]) -> None:
    ends = experiment.end_of(args.limit_minutes)
    prior = LatentDiffusionPrior.from_pretrained(plan.model, device=args.device, batch_reduction="sum")
    text = prior.encode_prompt(list(plan.prompts))
    judge = args.judge or judge_of(MODEL)
    perception = Perception(ClipScorer.from_pretrained(judge))

    def stop() -> bool:
        return asked() or time.monotonic() > ends

    def once(name: str, of: Callable[[], Any], *depends: str) -> None:
        judged = {"judge": judge, "thresholds": thresholds()} if "judge" in depends else {"judge": None}
        file, fits = args.out / f"{name}.json", {**judged, "form": runs.FORM}
        held = files.read_json(file) if file.exists() else {}
        if {key: held.get(key) for key in fits} == fits or stop():
            return
        print(f"{name}…", flush=True)
        files.write_json(file, {**fits, "found": of()})

    once("references", lambda: references.references(prior, plan, perception), "judge")
    once("branches", lambda: references.branches(prior, text, plan))
    once("cost", lambda: references.cost(prior, text, plan))
    chosen = [(group, cell) for group, cell in cells(args.seeds) if args.only is None or group in args.only]
    work = _Cells(args.out / "cells", plan, chosen, judge)
    for group, cell in work.left()[: args.limit_cells]:
        line = None if stop() else work.make(prior, text, cell, perception, stop)
        if line is None:
            break
        print(f"{work.done} of {len(chosen)} cells, {group}: {line}; {work.expected()}", flush=True)
    if args.objects and not stop():
        folder = args.out / "objects"
        sweep = objects.command(folder, args.objects, args.prompt_seed)
        code = objects.make(sweep, ends - time.monotonic(), asked)
        if code not in (0, 1, experiment.INTERRUPTED):
            raise UsageError(f"the sweep of objects ended with exit code {code}")
        objects.measure(folder, perception, judge, stop=stop)
    told = experiment.told(parser(), args, ("prompts", "prompt_seed", "steps", "seeds", "judge", "objects"))
    where = page.write(args.out, plan, cells(args.seeds), judge, told, args.page)
    print(f"{where} (tables and figures)")


class _Cells:
    """The cells that are to be made, which of them there are, and how long the others take.

    Args:
        folder: of their files.
        plan: what they have in common.
        chosen: group and cell, in order.
        judge: of the perceptual distance.
    """

    def __init__(self, folder: pathlib.Path, plan: Plan, chosen: Sequence[tuple[str, Cell]], judge: str):
        self.folder, self.plan, self.chosen, self.judge = folder, plan, chosen, judge
        self._there = {cell for _, cell in chosen if runs.fits(folder / f"{cell.name}.json", judge)}
        self._took: dict[bool, list[float]] = {False: [], True: []}
        for cell in self._there:
            self._took[cell.lambda_fm != 0].append(files.read_json(folder / f"{cell.name}.json")["took"])

    @property
    def done(self) -> int:
        """How many there are."""
        return len(self._there)

    def left(self) -> list[tuple[str, Cell]]:
        """Those that are not there."""
        return [(group, cell) for group, cell in self.chosen if cell not in self._there]

    def seconds(self, cell: Cell) -> float:
        """What a cell is going to take, by those that were made: feature matching takes its time. 0: nobody knows."""
        alike = self._took[cell.lambda_fm != 0] or self._took[cell.lambda_fm == 0]
        return sum(alike) / len(alike) if alike else 0.0

    def expected(self) -> str:
        """For people: what the others take."""
        seconds = sum(self.seconds(cell) for _, cell in self.left())
        return f"{duration(seconds)} left" if seconds else "all are there"

    def make(
        self, prior: LatentDiffusionPrior, text: Any, cell: Cell, perception: Perception, stop: Callable[[], bool]
    ) -> str | None:
        """Makes a cell, or measures again what was made; says what came of it. None: it was stopped."""
        made, begun = (self.folder / f"{cell.name}.{end}" for end in ("safetensors", "begun"))
        if not made.exists():
            found = runs.make(prior, text, self.plan, cell, begun, stop)
            if found is None:
                return None
            runs.save(made, *found)
            begun.unlink(missing_ok=True)
        tensors, facts = runs.load(made)
        started = time.perf_counter()
        record, pictures = runs.measured(prior, self.plan, tensors, facts, perception, self.judge)
        record["took"] = float(facts["took"]) + time.perf_counter() - started
        runs.keep(self.folder, cell.name, record, pictures)
        self._there.add(cell)
        self._took[cell.lambda_fm != 0].append(record["took"])
        images = record["checkpoints"][-1]["images"]
        right = f"{sum(image['right'] for image in images)} of {len(images)} right"
        return f"{cell.name}, {record['took']:.0f} s ({1e3 * record['seconds']:.0f} ms a step), {right}"


if __name__ == "__main__":
    sys.exit(main())
