"""`ldp-fast evaluate`: measures what was made.

`r-precision`: a folder of runs, by the paper's protocol (§4.1). `truth`: runs of the embedded model's world, against
the solids that their prompts ask for.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from ...runs.flags import number
from ...runs.prompts import read_prompts
from .. import registry
from ..options import check_device_flag
from . import evidence, truth_report
from .report import as_markdown
from .retrieval import OPENAI, evaluate_r_precision
from .truth import evaluate_truth

EXAMPLES = """\
examples:
  ldp-fast evaluate r-precision out/sweep
  ldp-fast evaluate r-precision out/sweep --clip openai/clip-vit-base-patch16 --prompts all.txt --seeds 0 1 2 3 4
  ldp-fast evaluate truth out/sweep --reachable
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the metrics and their flags."""
    parser.epilog = EXAMPLES
    metrics = parser.add_subparsers(dest="metric", metavar="METRIC", required=True, prog=parser.prog)
    retrieval = metrics.add_parser(
        "r-precision",
        help="how often CLIP finds the prompt of a view among 99 others",
        description="Measure how often CLIP finds a finished object's prompt among others, from a random view of it.",
        epilog=EXAMPLES,
        formatter_class=parser.formatter_class,
    )
    retrieval.add_argument(
        "folder", type=pathlib.Path, metavar="DIR", help="a sweep's folder, or one with several runs"
    )
    retrieval.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="SEED",
        help="seeds of the random cameras and of the distractors; one measurement each (default: 0 1 2)",
    )
    retrieval.add_argument(
        "--distractors", type=int, default=99, metavar="N", help="other prompts to choose from, for a view"
    )
    retrieval.add_argument(
        "--clip",
        metavar="MODEL",
        help=f"CLIP model that compares views with prompts (default: the embedded model's judge, else {OPENAI})",
    )
    retrieval.add_argument(
        "--prompts",
        type=pathlib.Path,
        metavar="FILE",
        help="file with prompts to draw distractors from, one a line (default: the prompts of DIR, and for the "
        "embedded model all captions of its world)",
    )
    retrieval.add_argument(
        "--elevation",
        nargs=2,
        type=number,
        metavar=("LOW", "HIGH"),
        help="height of the random cameras, in degrees above the horizon (default: as each run was trained)",
    )
    retrieval.add_argument(
        "--application", metavar="MODULE:NAME", help="the application of your own whose runs DIR holds"
    )
    retrieval.add_argument(
        "--device",
        help="where to compute: cpu, cuda, cuda:1, … (default: the runs'; for CLIP a GPU if there is one)",
    )
    _add_truth(metrics, parser.formatter_class)


def _add_truth(metrics: Any, formatter: Any) -> None:
    truth = metrics.add_parser(
        "truth",
        help="whether objects are the solids that the embedded model's captions ask for",
        description="Measure the shape, colours and cleanliness of finished objects of the embedded model against the "
        "solids that their prompts ask for, over the best rotation about the vertical axis, scale and shift.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    truth.add_argument("folder", type=pathlib.Path, metavar="DIR", help="a run, a sweep's folder, or one with runs")
    truth.add_argument(
        "--reachable",
        action="store_true",
        help="measure the solids themselves too, voxelised and through the VAE: what could be reached",
    )
    truth.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: the runs')")


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
    check_device_flag(args.device)
    if args.metric == "truth":
        measured = evaluate_truth(
            args.folder,
            device=args.device,
            resolution=evidence.RESOLUTION,
            through=args.reachable,
            told=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(truth_report.as_markdown(measured))
        print(f"{args.folder / 'truth.json'} (every measure), {args.folder / 'truth.png'} (the worst beside the truth)")
        return 0
    if args.application is not None:
        registry.find(args.application)  # from now on its runs are known
    pool = None
    if args.prompts is not None:
        told = read_prompts(args.prompts, lambda message: print(f"note: {message}", file=sys.stderr))
        pool = [prompt.text for prompt in told]
    found = evaluate_r_precision(
        args.folder,
        seeds=args.seeds,
        distractors=args.distractors,
        clip=args.clip,
        pool=pool,
        elevation=args.elevation and (args.elevation[0], args.elevation[1]),
        device=args.device,
    )
    print(as_markdown(found))
    print(f"{args.folder / 'evaluation.json'} (every view and its verdict)")
    return 0
