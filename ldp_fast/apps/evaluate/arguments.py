"""The metrics of `ldp-fast evaluate` and their flags."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence

from ...metrics import frechet
from ...runs.flags import number
from .clips import OPENAI
from .gathered import SEEDS

EXAMPLES = """\
examples:
  ldp-fast evaluate r-precision out/sweep
  ldp-fast evaluate r-precision out/sweep --clip openai/clip-vit-base-patch16 --prompts all.txt --seeds 0 1 2 3 4
  ldp-fast evaluate clip-score pictures --prompt "a red cube" --clip primitives/judge
  ldp-fast evaluate fid out/sweep --against pictures --features clip
  ldp-fast evaluate lpips pictures
  ldp-fast evaluate truth out/sweep --reachable
"""
DISTRACTORS, ALIKE = 99, 8
INCEPTION = "inception"
FEATURES, RESIZERS = "inception|clip|clip:NAME", ("tf1-bilinear", "antialiased-bilinear")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the metrics and their flags."""
    parser.epilog = EXAMPLES
    metrics = parser.add_subparsers(dest="metric", metavar="METRIC", required=True, prog=parser.prog)

    def declared(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        found = metrics.add_parser(
            name, help=summary, description=description, epilog=EXAMPLES, formatter_class=parser.formatter_class
        )
        return found  # type: ignore[no-any-return]

    _add_retrieval(declared)
    _add_clip_score(declared)
    for name in ("fid", "kid"):
        _add_distance(declared, name)
    _add_lpips(declared)
    _add_colour(declared)
    _add_truth(declared)


Declare = Callable[[str, str, str], argparse.ArgumentParser]


def _add_retrieval(declared: Declare) -> None:
    parser = declared(
        "r-precision",
        "how often CLIP finds the caption of a picture among others",
        "Measure how often CLIP finds the caption of a picture, or the prompt of a finished object from a random view "
        "of it, among others.",
    )
    _add_paths(parser)
    _add_clip(parser, several=True)
    parser.add_argument(
        "--protocol",
        choices=("paper", "dreamfields"),
        default="paper",
        help="paper: among --distractors that are drawn; dreamfields: among all of the list, from one fixed camera",
    )
    parser.add_argument(
        "--distractors",
        type=int,
        metavar="N",
        help=f"other captions to choose from, for a picture (default: {DISTRACTORS})",
    )
    listed = parser.add_mutually_exclusive_group()
    listed.add_argument(
        "--prompts",
        type=pathlib.Path,
        metavar="FILE",
        help="file with captions to draw distractors from, one a line (default: the captions of all folders of "
        "pictures; of runs the prompts of their folder, and for the embedded model all captions of its world)",
    )
    listed.add_argument(
        "--candidates", choices=("coco153",), help="a list that is known, in place of --prompts: DreamFields' captions"
    )
    _add_captions(parser)
    _add_views(parser, "and of the distractors; one measurement each")
    _add_common(parser)


def _add_clip_score(declared: Declare) -> None:
    parser = declared(
        "clip-score",
        "the cosine between each picture and its caption",
        "Measure the cosine between CLIP's embeddings of each picture and of its caption, and 100·max(cosine, 0).",
    )
    _add_paths(parser)
    _add_clip(parser, several=True)
    _add_captions(parser)
    _add_views(parser)
    _add_common(parser)


def _add_distance(declared: Declare, name: str) -> None:
    what = "Fréchet" if name == "fid" else "kernel"
    parser = declared(
        name,
        f"the {what} distance between pictures and others",
        f"Measure the {what} distance between the features of pictures and of those of --against.",
    )
    _add_paths(parser)
    _add_against(parser, required=True)
    parser.add_argument(
        "--features",
        default=INCEPTION,
        metavar=FEATURES,
        help="what is compared: Inception of 2015, or a CLIP (clip: the embedded model's judge for its runs, else "
        f"{OPENAI})",
    )
    parser.add_argument(
        "--weights", type=pathlib.Path, metavar="FILE", help="of Inception (default: in torch's cache; never fetched)"
    )
    parser.add_argument(
        "--resizer",
        choices=RESIZERS,
        help=f"of Inception: the original's, or torchmetrics' since 1.8; their numbers differ (default: {RESIZERS[0]})",
    )
    if name == "kid":
        parser.add_argument("--subsets", type=int, default=frechet.SUBSETS, metavar="N", help="how many are drawn")
        parser.add_argument(
            "--subset-size",
            type=int,
            metavar="N",
            help=f"pictures of each side in a subset (default: {frechet.SUBSET_SIZE}, or the smaller side)",
        )
        parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the subsets")
    _add_views(parser)
    _add_common(parser)


def _add_lpips(declared: Declare) -> None:
    parser = declared(
        "lpips",
        "how different pictures look from each other: mean over all pairs",
        "Measure the mean perceptual distance over all pairs of pictures, or between pictures of one name in two "
        "folders.",
    )
    _add_paths(parser)
    _add_against(parser, required=False)
    parser.add_argument(
        "--backbone",
        metavar="alex|vgg|clip|vae",
        help="network: alex or vgg with --weights are LPIPS; clip:NAME or vae:NAME, features of an embedded model, are "
        "like it (default: vae, or alex with --weights)",
    )
    parser.add_argument(
        "--weights", type=pathlib.Path, metavar="FILE", help="torchvision's, of alex or vgg; never fetched"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="S",
        help="pictures are resized to S × S (default: 256 for alex and vgg, else what the network is made for)",
    )
    parser.add_argument("--alike", type=int, metavar="K", help=f"most alike pairs to show (default: {ALIKE})")
    _add_views(parser, default=SEEDS[:1])
    _add_common(parser)


def _add_colour(declared: Declare) -> None:
    parser = declared(
        "colour",
        "how saturated pictures are, and how much is clipped",
        "Measure the saturation of pictures, and the share of their values that is clipped.",
    )
    _add_paths(parser)
    _add_views(parser)
    _add_common(parser)


def _add_truth(declared: Declare) -> None:
    parser = declared(
        "truth",
        "whether objects are the solids that the embedded model's captions ask for",
        "Measure the shape, colours and cleanliness of finished objects of the embedded model against the solids that "
        "their prompts ask for, over the best rotation about the vertical axis, scale and shift.",
    )
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR", help="a run, a sweep's folder, or one with runs")
    parser.add_argument(
        "--reachable",
        action="store_true",
        help="measure the solids themselves too, voxelised and through the VAE: what could be reached",
    )
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, … (default: the runs')")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and not as a table")


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=pathlib.Path,
        metavar="PATH",
        help="a folder of pictures (PNG, JPEG, WebP), a run, or a folder of runs such as a sweep's",
    )


def _add_against(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--against",
        nargs="+",
        type=pathlib.Path,
        required=required,
        metavar="PATH",
        help="pictures to compare with" + ("" if required else ", each with the one of its name"),
    )


def _add_clip(parser: argparse.ArgumentParser, several: bool) -> None:
    parser.add_argument(
        "--clip",
        nargs="+",
        metavar="MODEL",
        help="CLIP models that compare pictures with captions, a row each: primitives/judge, a folder, a hub name, or "
        f"open_clip:ARCHITECTURE:WEIGHTS (default: the embedded model's judge for its runs, else {OPENAI})",
    )


def _add_captions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="caption of all pictures of folders (default: captions.json or captions.csv in each)",
    )
    parser.add_argument(
        "--truncate", action="store_true", help="cut captions that are longer than CLIP reads; else they are an error"
    )


def _add_views(parser: argparse.ArgumentParser, more: str = "; one view each", default: Sequence[int] = SEEDS) -> None:
    tail = more if more.startswith(";") else f" {more}"
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="SEED",
        help=f"of the random cameras that look at objects{tail} (default: {' '.join(map(str, default))})",
    )
    parser.add_argument(
        "--elevation",
        nargs=2,
        type=number,
        metavar=("LOW", "HIGH"),
        help="height of the random cameras, in degrees above the horizon (default: as each run was trained)",
    )
    parser.add_argument(
        "--application", metavar="MODULE:NAME", help="the application of your own whose runs a PATH holds"
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background",
        nargs=3,
        type=int,
        default=[255, 255, 255],
        metavar=("R", "G", "B"),
        help="colour behind transparent pictures, 0 to 255 each (default: white)",
    )
    parser.add_argument(
        "--device",
        help="where to compute: cpu, cuda, cuda:1, … (default: a GPU if there is one; of rendering, the runs')",
    )
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        metavar="DIR",
        help="folder to write to (default: PATH/evaluation of the first; R-Precision of a folder of runs: that folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and not as a table")
