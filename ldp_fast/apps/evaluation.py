"""`ldp-fast evaluate`: measures what was made. `r-precision`: a folder of 3D runs, by the paper's protocol (§4.1)."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from .options import number
from .text_to_3d.jobs import read_prompts
from .text_to_3d.retrieval import OPENAI, evaluate_r_precision

EXAMPLES = """\
examples:
  ldp-fast evaluate r-precision out/sweep
  ldp-fast evaluate r-precision out/sweep --clip openai/clip-vit-base-patch16 --prompts all.txt --seeds 0 1 2 3 4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the metrics and their flags."""
    parser.epilog = EXAMPLES
    metrics = parser.add_subparsers(dest="metric", metavar="METRIC", required=True, prog=parser.prog)
    retrieval = metrics.add_parser(
        "r-precision",
        help="a random view of each object: is its prompt nearest in CLIP, among 99 others?",
        description="A random view of each finished object: is its prompt nearest in CLIP, among 99 others?",
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
        help="of camera and distractors (default: 0 1 2)",
    )
    retrieval.add_argument("--distractors", type=int, default=99, metavar="N", help="other prompts a view")
    retrieval.add_argument(
        "--clip", metavar="MODEL", help=f"CLIP that judges (default: the embedded model's own, else {OPENAI})"
    )
    retrieval.add_argument(
        "--prompts", type=pathlib.Path, metavar="FILE", help="where distractors come from (default: the prompts of DIR)"
    )
    retrieval.add_argument(
        "--elevation",
        nargs=2,
        type=number,
        metavar=("LOW", "HIGH"),
        help="of the random cameras, degrees (default: what each run was trained from)",
    )
    retrieval.add_argument("--device", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
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


def percent(row: dict[str, Any]) -> str:
    """`83.3 ± 5.8 %`."""
    spread = "" if row["std"] is None else f" ± {100 * row['std']:.1f}"
    return f"{100 * row['mean']:.1f}{spread} %"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that reads well as text too."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)])


def as_markdown(found: dict[str, Any]) -> str:
    """The table of an evaluation, and one paragraph on how it was measured."""
    protocol = found["protocol"]
    lines = []
    for row in found["rows"]:
        settings = "".join(f", {name} {value}" for name, value in row["settings"].items())
        lambdas = ", ".join(f"{row[f'lambda_{name}']:g}" for name in ("fm", "kl", "lsd"))
        lines.append([row["method"], row["losses"] + settings, lambdas, str(row["objects"]), percent(row)])
    if found["truth"]:
        lines.append(["renders of the truth", "", "", str(found["truth"]["objects"]), percent(found["truth"])])
    table = markdown_table(["method", "losses", "λ1, λ2, λ3", "objects", "R-Precision"], lines)
    low, high = protocol["elevation"] or (None, None)
    heights = "elevation as in training" if low is None else f"elevation {low:g}° to {high:g}°"
    repetitions = max(len(row["repetitions"]) for row in found["rows"])
    text = (
        f"One view of each object from a random camera (any azimuth, {heights}); CLIP "
        f"`{protocol['clip']}` has to prefer the object's prompt to {protocol['distractors']} others, drawn for each "
        f"view from {protocol['pool']}. Mean ± standard deviation over {repetitions} repetitions (seeds of the runs × "
        f"{len(protocol['seeds'])} seeds of cameras and distractors)."
    )
    prompts = {made["folder"]: made["prompt"] for made in found["objects"]}
    if len({frozenset(prompts[folder] for folder in row["folders"]) for row in found["rows"]}) > 1:
        text += " The rows were not measured on the same prompts, for some runs are missing."
    if found["unfinished"]:
        text += f" {len(found['unfinished'])} unfinished runs are not in it."
    return f"{table}\n\n{text}"
