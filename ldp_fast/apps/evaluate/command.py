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
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ...runs.prompts import read_prompts
from .. import registry
from ..options import check_device_flag
from ..targets import check_writable
from . import evidence, truth_report
from .arguments import add_arguments
from .asked import Asked
from .features import Keeping
from .gathered import Gathered, gather, kind_of
from .report import as_markdown
from .results import as_json, base_of, listed, notes, write
from .truth import evaluate_truth
from .verdicts import DREAMFIELDS, Protocol

if TYPE_CHECKING:
    from .clips import Judge

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """The command. Returns 0."""
    check_device_flag(args.device)
    if args.metric == "truth":
        return _truth(args.folder, args.device, args.reachable, args.json)
    asked = Asked.of(vars(args))
    if asked.application is not None:
        registry.find(asked.application)  # from now on its runs are known
    with warnings.catch_warnings():
        # Pillow's, of large pictures: what is too large is an error of ours.
        warnings.filterwarnings("ignore", message="Image size .* exceeds limit", category=Warning)
        RUN[asked.metric](asked)
    return 0


def _truth(folder: pathlib.Path, device: str | None, through: bool, as_record: bool) -> int:
    measured = evaluate_truth(folder, device=device, resolution=evidence.RESOLUTION, through=through, told=_told)
    if as_record:
        print(as_json(measured))
        return 0
    print(truth_report.as_markdown(measured))
    print(f"{folder / 'truth.json'} (every measure), {folder / 'truth.png'} (the worst beside the truth)")
    return 0


def _told(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _clips(asked: Asked) -> list[str | None]:
    """The CLIPs that are named, each once; None stands for the one that is chosen."""
    return [*dict.fromkeys(asked.clip)] if asked.clip else [None]


def _gathered(
    asked: Asked, paths: Sequence[pathlib.Path], *, captions: bool
) -> tuple[pathlib.Path, Gathered, Gathered | None, Keeping]:
    """Where to write, the pictures of some paths, those of --against, and where vectors are kept."""
    asked.check_paths(paths)
    base = base_of(paths, asked.out)
    looking = asked.looking()
    found = gather(paths, captions=captions, prompt=asked.prompt, looking=looking)
    against = gather(asked.against, captions=False, looking=looking) if asked.against else None
    for line in [*notes(found), *(notes(against) if against else ())]:
        _told(f"note: {line}")
    return base, found, against, Keeping(base / "features", tuple(asked.background))


def finish(
    asked: Asked,
    base: pathlib.Path,
    result: dict[str, Any],
    table: str,
    picture: tuple[bytes, str] | None = None,
    holds: str = "every picture",
) -> None:
    """Writes and prints a result.

    Args:
        asked: the options.
        base: the folder of the files.
        result: what the JSON holds.
        table: for people.
        picture: PNG, and what it shows.
        holds: what the JSON has beside the table.
    """
    paths = write(base, asked.metric, result, picture and picture[0])
    if asked.out is None:
        listed(asked.paths)
    if asked.json:
        print(as_json(result))
        return
    print(table)
    shown = f", {paths[1]} ({picture[1]})" if picture else ""
    print(f"{paths[0]} ({holds}){shown}")


def _retrieval(asked: Asked) -> None:
    from .retrieval import evaluate_r_precision, files_of

    pool = None
    if asked.prompts is not None:
        told = read_prompts(asked.prompts, lambda message: _told(f"note: {message}"))
        pool = [prompt.text for prompt in told]
    kinds = {path: kind_of(path) for path in dict.fromkeys(asked.paths)}
    folders = [path for path, kind in kinds.items() if kind == "pictures"]
    runs = [path for path in kinds if path not in folders]
    if asked.out is not None and len(runs) + bool(folders) > 1:
        raise UsageError("--out: expected with one folder of runs, or with folders of pictures alone")
    if asked.prompt is not None and runs:
        raise UsageError(f"--prompt: {runs[0]} holds runs, which have prompts of their own")
    more: dict[str, Any] = {
        "kind": asked.protocol,
        "distractors": asked.others,
        "pool": pool,
        "known": asked.candidates is not None,
    }
    results = []
    # What is wrong with the last path is to be said before the first is rendered.
    prepared = _prepared(asked, folders, more) if folders else None
    for path in runs:
        check_writable(asked.out or path)
        looking = asked.looking()
        result = evaluate_r_precision(
            path,
            **more,
            seeds=looking.seeds,
            clip=asked.clip,
            elevation=looking.elevation,
            device=asked.device,
            truncate=asked.truncate,
            out=asked.out,
        )
        results.append(result)
        if asked.out is None:
            listed([path])
        if not asked.json:
            print(as_markdown(result))
            record, image = files_of(asked.out or path, asked.protocol, kinds[path] == "run")
            print(f"{record} (every view and its verdict), {image} (the worst)")
    if prepared is not None:
        results.append(_folder_retrieval(asked, *prepared))
    if asked.json:
        print(as_json(results[0] if len(results) == 1 else results))


def _prepared(
    asked: Asked, folders: list[pathlib.Path], more: dict[str, Any]
) -> tuple[pathlib.Path, Gathered, Protocol, list[Judge]]:
    """Where R-Precision of folders of pictures is written, these, how they are judged, and by whom."""
    from . import folder_retrieval
    from .clips import Judge, check_known, load_clip

    base, found, _, keeping = _gathered(asked, folders, captions=True)
    protocol = folder_retrieval.protocol_for(found, **more)
    clips = [load_clip(name, found.model, asked.device) for name in _clips(asked)]
    check_known(clips, [str(picture.caption) for picture in found.pictures()])
    return base, found, protocol, [Judge(clip, keeping, asked.truncate) for clip in clips]


def _folder_retrieval(
    asked: Asked, base: pathlib.Path, found: Gathered, protocol: Protocol, judges: list[Judge]
) -> dict[str, Any]:
    from . import folder_retrieval

    result, image = folder_retrieval.evaluate_folders(found, judges, protocol, asked.looking().seeds)
    name = f"{asked.metric}-{DREAMFIELDS}" if asked.protocol == DREAMFIELDS else asked.metric
    paths = write(base, name, result, image)
    if not asked.json:
        print(folder_retrieval.as_markdown(result))
        print(f"{paths[0]} (every picture), {paths[1]} (the worst)")
    return result


def _colour(asked: Asked) -> None:
    from . import colours

    base, found, _, keeping = _gathered(asked, asked.paths, captions=False)
    result = colours.evaluate_colour(found, keeping)
    finish(asked, base, result, colours.as_markdown(result))


def _clip_score(asked: Asked) -> None:
    from . import clip_scores
    from .clips import Judge, check_known, load_clip

    base, found, _, keeping = _gathered(asked, asked.paths, captions=True)
    clips = [load_clip(name, found.model, asked.device) for name in _clips(asked)]
    check_known(clips, [str(picture.caption) for picture in found.pictures()])
    result = clip_scores.evaluate_clip_score(found, [Judge(clip, keeping, asked.truncate) for clip in clips])
    finish(asked, base, result, clip_scores.as_markdown(result))


def _distance(asked: Asked) -> None:
    from . import distances

    base, found, against, keeping = _gathered(asked, asked.paths, captions=False)
    assert against is not None
    features = distances.load_features(
        asked.features, asked.weights, asked.inception_resizer, found.model, asked.device
    )
    more = {name: getattr(asked, name) for name in ("subsets", "subset_size", "seed") if hasattr(asked, name)}
    result = distances.evaluate_distance(
        asked.metric, found, against, features, keeping, **more, told=lambda line: _told(f"note: {line}")
    )
    finish(asked, base, result, distances.as_markdown(result), holds="every number")


def _lpips(asked: Asked) -> None:
    from . import perceptual

    base, found, against, keeping = _gathered(asked, asked.paths, captions=False)
    lpips = perceptual.load_lpips(asked.backbone, asked.weights, asked.size, found.model, asked.device)
    if against is not None:
        result = perceptual.evaluate_pairwise(found, against, lpips, keeping)
        (base / "lpips.png").unlink(missing_ok=True)  # of all pairs, which the JSON is not about any more
        finish(asked, base, result, perceptual.as_markdown(result))
        return
    result = perceptual.evaluate_pairs(found, lpips, keeping, alike=asked.most_alike)
    image = perceptual.pairs_sheet(result, found, keeping.background)
    shown = (image, "the most alike pairs") if image else None
    finish(asked, base, result, perceptual.as_markdown(result), shown, holds="the most alike pairs by name")


RUN: dict[str, Callable[[Asked], None]] = {
    "r-precision": _retrieval,
    "colour": _colour,
    "clip-score": _clip_score,
    "fid": _distance,
    "kid": _distance,
    "lpips": _lpips,
}
