"""`ldp-fast evaluate`: measures what was made, and any pictures.

`r-precision`, `clip-score`, `fid`, `kid`, `lpips` and `colour` look at folders of pictures and at views of runs;
`truth` at runs of the embedded model's world, against the solids that their prompts ask for.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UsageError
from ...runs.prompts import read_prompts
from .. import registry
from ..options import check_device_flag
from ..targets import check_writable
from . import evidence, truth_report
from .arguments import DISTRACTORS, add_arguments
from .features import Keeping
from .gathered import SEEDS, Gathered, Looking, gather, kind_of
from .report import as_markdown
from .results import as_json, base_of, listed, notes, write
from .truth import evaluate_truth
from .verdicts import DREAMFIELDS, PAPER

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
    check_device_flag(args.device)
    if args.metric == "truth":
        return _truth(args)
    if args.application is not None:
        registry.find(args.application)  # from now on its runs are known
    _check(args)
    with warnings.catch_warnings():
        # Pillow's, of large pictures: what is too large is an error of ours.
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit", category=Warning)
        RUN[args.metric](args)
    return 0


def _truth(args: argparse.Namespace) -> int:
    measured = evaluate_truth(
        args.folder, device=args.device, resolution=evidence.RESOLUTION, through=args.reachable, told=_told
    )
    print(truth_report.as_markdown(measured))
    print(f"{args.folder / 'truth.json'} (every measure), {args.folder / 'truth.png'} (the worst beside the truth)")
    return 0


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that are out of range."""
    if args.seeds and min(args.seeds) < 0:
        raise UsageError(f"--seeds: expected at least 0, got {min(args.seeds)}")
    if args.elevation is not None and not -90 <= args.elevation[0] <= args.elevation[1] <= 90:
        low, high = args.elevation
        raise UsageError(f"--elevation: expected -90 <= LOW <= HIGH <= 90, got {low:g} {high:g}")
    if not all(0 <= value <= 255 for value in args.background):
        raise UsageError(f"--background: expected three numbers from 0 to 255, got {args.background}")
    if getattr(args, "prompt", None) is not None and not args.prompt.strip():
        raise UsageError("--prompt: expected a caption, got an empty one")
    if getattr(args, "alike", 0) < 0:
        raise UsageError(f"--alike: expected at least 0, got {args.alike}")
    if getattr(args, "size", None) is not None and args.size < 1:
        raise UsageError(f"--size: expected at least 1, got {args.size}")


def looking_of(args: argparse.Namespace) -> Looking:
    """How runs are looked at, by the flags."""
    height = args.elevation and (args.elevation[0], args.elevation[1])
    seeds = args.seeds or (SEEDS[:1] if args.metric == "lpips" else SEEDS)
    return Looking(tuple(dict.fromkeys(seeds)), height, args.device, out=args.out)


def _gathered(
    args: argparse.Namespace, paths: Sequence[pathlib.Path], *, captions: bool
) -> tuple[pathlib.Path, Gathered, Gathered | None, Keeping]:
    """Where to write, the pictures of some paths, those of --against, and where vectors are kept."""
    for path in [*paths, *(getattr(args, "against", None) or ())]:
        kind_of(path)  # before anything is written or rendered
    base = base_of(paths, args.out)
    looking = looking_of(args)
    found = gather(paths, captions=captions, prompt=getattr(args, "prompt", None), looking=looking)
    asked = getattr(args, "against", None)
    against = gather(asked, captions=False, looking=looking) if asked else None
    for line in [*notes(found), *(notes(against) if against else ())]:
        _told(f"note: {line}")
    return base, found, against, Keeping(base / "features", tuple(args.background))


def finish(
    args: argparse.Namespace,
    base: pathlib.Path,
    result: dict[str, Any],
    table: str,
    picture: tuple[bytes, str] | None = None,
    holds: str = "every picture",
) -> None:
    """Writes and prints a result.

    Args:
        args: the command line.
        base: the folder of the files.
        result: what the JSON holds.
        table: for people.
        picture: PNG, and what it shows.
        holds: what the JSON has beside the table.
    """
    paths = write(base, args.metric, result, picture and picture[0])
    if args.out is None:
        listed(args.paths)
    if args.json:
        print(as_json(result))
        return
    print(table)
    shown = f", {paths[1]} ({picture[1]})" if picture else ""
    print(f"{paths[0]} ({holds}){shown}")


def _retrieval(args: argparse.Namespace) -> None:
    from .retrieval import evaluate_r_precision, files_of

    pool = None
    if args.prompts is not None:
        told = read_prompts(args.prompts, lambda message: _told(f"note: {message}"))
        pool = [prompt.text for prompt in told]
    distractors = DISTRACTORS if args.distractors is None else args.distractors
    if distractors < 1:
        raise UsageError(f"--distractors: expected at least 1, got {distractors}")
    if args.protocol == DREAMFIELDS:
        for name in ("distractors", "seeds", "elevation"):
            if getattr(args, name) is not None:
                raise UsageError(
                    f"--{name}: expected only with --protocol {PAPER}; {DREAMFIELDS} takes the whole list, and a fixed "
                    f"camera"
                )
    kinds = {path: kind_of(path) for path in dict.fromkeys(args.paths)}
    folders = [path for path, kind in kinds.items() if kind == "pictures"]
    runs = [path for path in kinds if path not in folders]
    if args.out is not None and len(runs) + bool(folders) > 1:
        raise UsageError("--out: expected with one folder of runs, or with folders of pictures alone")
    if args.prompt is not None and runs:
        raise UsageError(f"--prompt: {runs[0]} holds runs, which have prompts of their own")
    more = {"kind": args.protocol, "distractors": distractors, "pool": pool, "known": args.candidates is not None}
    results = []
    for path in runs:
        check_writable(args.out or path)
        looking = looking_of(args)
        result = evaluate_r_precision(
            path,
            **more,
            seeds=looking.seeds,
            clip=args.clip,
            elevation=looking.elevation,
            device=args.device,
            truncate=args.truncate,
            out=args.out,
        )
        results.append(result)
        if args.out is None:
            listed([path])
        if not args.json:
            print(as_markdown(result))
            record, image = files_of(args.out or path, args.protocol, kinds[path] == "run")
            print(f"{record} (every view and its verdict), {image} (the worst)")
    if folders:
        results.append(_folder_retrieval(args, folders, more))
    if args.json:
        print(as_json(results[0] if len(results) == 1 else results))


def _folder_retrieval(args: argparse.Namespace, folders: list[pathlib.Path], more: dict[str, Any]) -> dict[str, Any]:
    from . import folder_retrieval
    from .clips import Judge, check_known, load_clip

    base, found, _, keeping = _gathered(args, folders, captions=True)
    protocol = folder_retrieval.protocol_for(found, **more)
    clips = [load_clip(name, found.model, args.device) for name in dict.fromkeys(args.clip or [None])]
    check_known(clips, [str(picture.caption) for picture in found.pictures()])
    judges = [Judge(clip, keeping, args.truncate) for clip in clips]
    result, image = folder_retrieval.evaluate_folders(found, judges, protocol, looking_of(args).seeds)
    name = f"{args.metric}-{DREAMFIELDS}" if args.protocol == DREAMFIELDS else args.metric
    paths = write(base, name, result, image)
    if not args.json:
        print(folder_retrieval.as_markdown(result))
        print(f"{paths[0]} (every picture), {paths[1]} (the worst)")
    return result


def _colour(args: argparse.Namespace) -> None:
    from . import colours

    base, found, _, keeping = _gathered(args, args.paths, captions=False)
    result = colours.evaluate_colour(found, keeping)
    finish(args, base, result, colours.as_markdown(result))


def _clip_score(args: argparse.Namespace) -> None:
    from . import clip_scores
    from .clips import Judge, check_known, load_clip

    base, found, _, keeping = _gathered(args, args.paths, captions=True)
    clips = [load_clip(name, found.model, args.device) for name in dict.fromkeys(args.clip or [None])]
    check_known(clips, [str(picture.caption) for picture in found.pictures()])
    result = clip_scores.evaluate_clip_score(found, [Judge(clip, keeping, args.truncate) for clip in clips])
    finish(args, base, result, clip_scores.as_markdown(result))


def _distance(args: argparse.Namespace) -> None:
    from . import distances

    base, found, against, keeping = _gathered(args, args.paths, captions=False)
    assert against is not None
    features = distances.load_features(args.features, args.weights, args.resizer, found.model, args.device)
    more = {name: getattr(args, name) for name in ("subsets", "subset_size", "seed") if hasattr(args, name)}
    result = distances.evaluate_distance(
        args.metric, found, against, features, keeping, **more, told=lambda line: _told(f"note: {line}")
    )
    finish(args, base, result, distances.as_markdown(result), holds="every number")


def _lpips(args: argparse.Namespace) -> None:
    from . import perceptual

    base, found, against, keeping = _gathered(args, args.paths, captions=False)
    lpips = perceptual.load_lpips(args.backbone, args.weights, args.size, found.model, args.device)
    if against is not None:
        result = perceptual.evaluate_pairwise(found, against, lpips, keeping)
        (base / "lpips.png").unlink(missing_ok=True)  # of all pairs, which the JSON is not about any more
        finish(args, base, result, perceptual.as_markdown(result))
        return
    result = perceptual.evaluate_pairs(found, lpips, keeping, alike=args.alike)
    image = perceptual.pairs_sheet(result, found, keeping.background)
    shown = (image, "the most alike pairs") if image else None
    finish(args, base, result, perceptual.as_markdown(result), shown, holds="the most alike pairs by name")


RUN: dict[str, Callable[[argparse.Namespace], None]] = {
    "r-precision": _retrieval,
    "colour": _colour,
    "clip-score": _clip_score,
    "fid": _distance,
    "kid": _distance,
    "lpips": _lpips,
}
