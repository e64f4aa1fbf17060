"""`python -m benchmarks.views`: see the package's text, or `--help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

from ldp_fast.errors import UsageError
from ldp_fast.guidance.loading import locate, usable
from ldp_fast.runs.expectation import duration
from ldp_fast.zoo.evaluate import pipeline_of

from .. import experiment, machine
from . import __doc__ as about
from . import tables
from .batches import SIZE, Batches
from .plan import Plan, plan_of

NAME = "benchmarks.views"


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = experiment.parser(NAME, about)
    made.add_argument(
        "--model",
        default="primitives",
        help="an embedded model's name, or a folder of one in diffusers' format (default: primitives)",
    )
    made.add_argument(
        "--captions", type=int, default=48, metavar="N", help="random captions that training saw (default: 48)"
    )
    made.add_argument(
        "--held-out", type=int, default=24, metavar="N", help="random captions that it did not see (default: 24)"
    )
    made.add_argument(
        "--views-each",
        type=int,
        metavar="N",
        help="sample each caption at N of the views, the next caption at the next ones (default: at all)",
    )
    made.add_argument("--samples", type=int, default=1, metavar="N", help="of each caption at each view (default: 1)")
    made.add_argument("--steps", type=int, default=25, metavar="N", help="denoising steps of a sample (default: 25)")
    made.add_argument(
        "--guidance-scale",
        type=float,
        metavar="S",
        help="how much more the prompt counts than an empty one (default: the model's own)",
    )
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of captions and noise (default: 0)")
    made.add_argument("--truth", action="store_true", help="measure true renders from cameras of each view instead")
    made.add_argument(
        "--limit-batches", type=int, metavar="N", help="make N batches at most; the same command continues"
    )
    made.add_argument("--device", help="where to sample (default: a GPU if there is one)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 0; 2 for what it refuses, 130 after an interruption, after which it continues."""
    args = parser().parse_args(arguments)
    return experiment.command(NAME, args.out, lambda: _plan(args), lambda plan, asked: _work(args, plan, asked))


def _device(args: argparse.Namespace) -> torch.device:
    return usable(args.device or machine.default_device())


def _plan(args: argparse.Namespace) -> Plan:
    if args.limit_batches is not None and args.limit_batches < 0:
        raise UsageError(f"--limit-batches: expected at least 0, got {args.limit_batches}")
    _device(args)  # refused before a folder is claimed
    return plan_of(
        args.model,
        seen=args.captions,
        held_out=args.held_out,
        samples=args.samples,
        each=args.views_each,
        seed=args.seed,
        steps=args.steps,
        guidance=args.guidance_scale,
        truth=args.truth,
    )


def _work(args: argparse.Namespace, plan: Plan, asked: Callable[[], bool]) -> None:
    batches = Batches(args.out / "batches", plan, lambda: pipeline_of(locate(args.model)).to(_device(args)))
    count, left = len(batches.batches), batches.left()
    print(f"{len(plan.tasks())} pictures in {count} batches of {SIZE}; {len(left)} batches to make", flush=True)
    for number in left[: args.limit_batches]:
        record = None if asked() else batches.make(number, asked)
        if record is None:
            break
        images, seconds = record["images"], batches.expected()
        right, high = (sum(image[name] is True for image in images) for name in ("right", "height"))
        took = " + ".join(f"{x:.0f}" for x in record["seconds"])
        print(
            f"batch {number + 1} of {count}: {right} of {len(images)} right, {high} as high as asked for; {took} s "
            f"(pictures + measures); {duration(seconds) + ' left' if seconds else 'all are there'}",
            flush=True,
        )
    print(f"\n{tables.write(args.out, plan, batches, args.model)}")


if __name__ == "__main__":
    sys.exit(main())
