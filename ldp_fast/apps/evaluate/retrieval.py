"""R-Precision over a folder of runs: the paper's protocol (§4.1), and DreamFields'."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...runs import files
from ...runs.folder import application_of, sweep_up
from ...zoo import captions, world
from .clips import Judge, check_known, count_unknown, load_clip
from .features import Keeping
from .found import Run, rows_of
from .gathered import Picture, finished_runs, samples_of
from .verdicts import (
    DREAMFIELDS,
    FIXED,
    PAPER,
    Protocol,
    beaten_by,
    hits_of,
    protocol_of,
    summary,
    verdict_sheet,
)
from .views import View, Views, draw, random_view, render_missing

AT_ONCE = 64  # renders of the truth
TRUTHS = 16  # of them for a run and a seed, where it has left many pictures


@dataclasses.dataclass(frozen=True)
class _View:
    """One view of an object: what was drawn for it, and where it lies.

    Attributes:
        made: the object.
        view: what the JSON says of it.
        picture: its file.
    """

    made: dict[str, Any]
    view: dict[str, Any]
    picture: Picture


def evaluate_r_precision(
    folder: pathlib.Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    distractors: int = 99,
    clip: str | Sequence[str] | None = None,
    pool: Sequence[str] | None = None,
    known: bool = False,
    kind: str = PAPER,
    elevation: View | None = None,
    device: str | None = None,
    load: Callable[..., Any] | None = None,
    truncate: bool = False,
    out: pathlib.Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """The protocol: for each finished object and each seed a view from a random camera, its prompt against distractors.

    Camera and distractors depend on the prompt, the run's seed and the evaluation's seed only, so that methods and
    losses are compared on the same views. Views and their embeddings are kept in `DIR/evaluation/`, and a later call
    renders and embeds what is new. Of a run that has left many pictures (`Entry.samples`) they are dealt to the seeds,
    and each has distractors of its own.

    Args:
        folder: with a run in each subfolder, or a run.
        seeds: of the evaluation.
        distractors: how many a view.
        clip: one or several of what `Clip.load` takes; None chooses.
        pool: where distractors come from. None: the folder's prompts, and for the embedded model its world's captions.
        known: whether distractors come from DreamFields' list in place of `pool`.
        kind: `paper`, or `dreamfields`: one view from a fixed camera, among all of the pool.
        elevation: range of the cameras, degrees. None: what each run was trained from, without views from overhead.
        device: of rendering and CLIP; None: the runs' own, and for CLIP a GPU if there is one.
        load: takes the place of what loads a run; None loads it.
        truncate: whether prompts that CLIP does not read whole are cut; otherwise they are an error.
        out: takes the place of `folder` for all that is written.
        progress: whether to show bars.

    Returns:
        What `evaluation.json` holds: `protocol`, `rows` (one a method and choice of settings, and a CLIP: mean and
        standard deviation over the repetitions, which are the runs' seeds times the evaluation's) and `objects` (each
        view, with the first CLIP's verdict).

    Raises:
        UsageError: no finished run, too few distractors, a CLIP that cannot be loaded, arguments out of range.
    """
    seeds = list(dict.fromkeys(seeds))
    if distractors < 1:
        raise UsageError(f"--distractors: expected at least 1, got {distractors}")
    if min(seeds) < 0:
        raise UsageError(f"--seeds: expected at least 0, got {min(seeds)}")
    if elevation is not None and not -90 <= elevation[0] <= elevation[1] <= 90:
        raise UsageError(f"--elevation: expected -90 <= LOW <= HIGH <= 90, got {elevation[0]:g} {elevation[1]:g}")
    alone = application_of(folder) is not None
    places, runs, unfinished = finished_runs(folder, "run" if alone else "runs")
    embedded = all(run.plain.get("model") in embedded_models() for run in runs.values())
    own = sorted({run.plain["prompt"] for run in (*runs.values(), *unfinished.values())})
    if pool is None:
        pool = [*([scene.caption() for scene in world.all_scenes()] if embedded else []), *own]
    protocol = protocol_of(kind, pool, own, distractors, known=known)
    names = [clip] if clip is None or isinstance(clip, str) else list(dict.fromkeys(clip))
    base = folder if out is None else out
    keeping = Keeping(base / "evaluation" / "features", progress=progress)
    model = next(iter(runs.values())).plain.get("model") if embedded else None
    clips = [load_clip(name, model, device) for name in names]
    check_known(clips, own)
    judges = [Judge(clip, keeping, truncate) for clip in clips]

    kept = base / "evaluation"
    sweep_up(kept)
    objects: list[dict[str, Any]] = []
    views: list[_View] = []
    looked: list[Views] = []
    for name, run in runs.items():
        if pictures := samples_of(name, places[name], run):
            made = {"folder": name, **_who(run.plain)}
            dealt = _dealt(pictures, [0] if kind == DREAMFIELDS else seeds)
            made["views"] = [{"seed": seed, "sample": picture.file.name} for seed, picture in dealt]
            objects.append(made)
            views += [_View(made, view, picture) for view, (_, picture) in zip(made["views"], dealt, strict=True)]
            continue
        seen = [FIXED] if kind == DREAMFIELDS else [random_view(run, seed, elevation) for seed in seeds]
        shown = [kind] if kind == DREAMFIELDS else [f"view{seed}" for seed in seeds]
        looked.append(Views(places[name], run, seen, shown, kept))
        made = {"folder": name, **_who(run.plain)}
        drawn = [0] if kind == DREAMFIELDS else seeds
        made["views"] = [{"seed": s, "azimuth": v[0], "elevation": v[1]} for s, v in zip(drawn, seen, strict=True)]
        objects.append(made)
        for view, path, word in zip(made["views"], looked[-1].files(), shown, strict=True):
            views.append(_View(made, view, Picture(f"{name}/{word}", path, run.plain["prompt"])))
    render_missing(looked, device=device, load=load, progress=progress)

    rows, image = _rows(runs, objects, views, judges, protocol)
    truths = {judge.name: _truth(judge, objects, views, protocol) if embedded else None for judge in judges}
    several = {"truths": truths} if len(judges) > 1 else {}
    result = {
        "metric": "r-precision",
        "protocol": {
            "protocol": kind,
            "seeds": seeds if kind == PAPER else None,
            "distractors": distractors if kind == PAPER else protocol.size() - 1,
            "clip": judges[0].name,
            "clips": [judge.name for judge in judges],
            "elevation": elevation and list(elevation),
            "truncated": truncate,
            "pool": protocol.size(),
            "unknown": count_unknown(clips, protocol.pool),
        },
        "rows": rows,
        "truth": truths[judges[0].name],
        **several,
        "unfinished": sorted(unfinished),
        "objects": objects,
        "versions": files.versions(),
    }
    where = files_of(base, kind, alone)
    files.write_json(where[0], result)
    files.write_atomically(where[1], image)
    return dict(files.plain(result))


def files_of(base: pathlib.Path, kind: str, alone: bool) -> tuple[pathlib.Path, pathlib.Path]:
    """The JSON and the PNG of an evaluation by a protocol; `alone`: of one run, and not of a folder of them."""
    where = base / "evaluation"
    if kind == DREAMFIELDS:
        where = where / f"r-precision-{kind}"
    elif alone:
        where = where / "r-precision"
    return where.with_suffix(".json"), where.with_suffix(".png")


def _dealt(pictures: Sequence[Picture], seeds: Sequence[int]) -> list[tuple[int, Picture]]:
    """Pictures with seeds, so that each seed has about as many; where there are fewer than seeds, each has all."""
    if len(pictures) < len(seeds):
        return [(seed, picture) for seed in seeds for picture in pictures]
    return [(seed, picture) for i, seed in enumerate(seeds) for picture in pictures[i :: len(seeds)]]


def _drawn(one: _View, purpose: str) -> int:
    """A seed for a view; of samples each has another."""
    return draw(one.made, one.view["seed"], f"{purpose} {one.view['sample']}" if "sample" in one.view else purpose)


def _who(configuration: dict[str, Any]) -> dict[str, Any]:
    return {name: configuration[name] for name in ("prompt", "method", "seed")}


def _rows(
    runs: dict[str, Run],
    objects: Sequence[dict[str, Any]],
    views: Sequence[_View],
    judges: Sequence[Judge],
    protocol: Protocol,
) -> tuple[list[dict[str, Any]], bytes]:
    """One row a configuration, prompt and seed aside, and a CLIP; views get their verdicts. And the worst as PNG."""
    pictures = [one.picture for one in views]
    said = [str(picture.caption) for picture in pictures]
    draws = [_drawn(one, "distractors") for one in views]
    rows: list[dict[str, Any]] = []
    image = b""
    for judge in judges:
        features = judge.of_pictures(pictures)
        hits = hits_of(judge, features, said, protocol, draws)
        about = beaten_by(judge, features, said, protocol)
        for one, hit in zip(views, hits, strict=True):
            if len(judges) > 1:
                one.view.setdefault("hits", {})[judge.name] = hit
            if judge is judges[0]:
                one.view["hit"] = hit
        if judge is judges[0]:
            verdicts = ["hit" if hit else "miss" for hit in hits]
            image = verdict_sheet(pictures, about, verdicts, judge.keeping.background)
        for head, group in rows_of(runs, objects):
            rows.append({**head, "clip": judge.name, **_mean(group, views, hits)})
    return rows, image


def _mean(objects: Sequence[dict[str, Any]], views: Sequence[_View], hits: Sequence[bool]) -> dict[str, Any]:
    """Over the repetitions: each seed of the runs with each of the evaluation. `views` are those of the hits."""
    counts = {"objects": len(objects), "prompts": len({found["prompt"] for found in objects})}
    by_seed: dict[str, dict[int, list[bool]]] = {found["folder"]: {} for found in objects}
    for one, hit in zip(views, hits, strict=True):
        if one.made["folder"] in by_seed:
            by_seed[one.made["folder"]].setdefault(one.view["seed"], []).append(hit)
    means = {folder: [statistics.fmean(some) for some in found.values()] for folder, found in by_seed.items()}
    return {**counts, **summary([(found["seed"], means[found["folder"]]) for found in objects])}


def _truth(
    judge: Judge, objects: Sequence[dict[str, Any]], views: Sequence[_View], protocol: Protocol
) -> dict[str, Any] | None:
    """The same for renders of what the prompts ask for: what this CLIP could give at most; None for other prompts."""
    asked = {(made["prompt"], made["seed"]): made for made in objects}
    scenes = {made["folder"]: captions.scene_of(made["prompt"]) for made in asked.values()}
    if None in scenes.values():
        return None
    shown = _first([one for one in views if one.made["folder"] in scenes])
    images = []
    for one in shown:
        scene = scenes[one.made["folder"]]
        assert scene is not None
        images.append(torch.from_numpy(world.render(scene, _camera(one))).permute(2, 0, 1))
    parts = [
        judge.image_features(torch.stack(images[i : i + AT_ONCE]).float() / 255) for i in range(0, len(images), AT_ONCE)
    ]
    said = [str(one.picture.caption) for one in shown]
    hits = hits_of(judge, torch.cat(parts), said, protocol, [_drawn(one, "distractors") for one in shown])
    return _mean(list(asked.values()), shown, hits)


def _first(views: Sequence[_View]) -> list[_View]:
    """The views, of samples the first few of each run and seed: a render takes longer than a look at it."""
    counts: dict[tuple[str, int], int] = {}
    found = []
    for one in views:
        key = (one.made["folder"], one.view["seed"])
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= TRUTHS:
            found.append(one)
    return found


def _camera(one: _View) -> world.View:
    """From where the truth is seen: as the object, or, where nobody knows how a sample is seen, from any side."""
    if "sample" in one.view:
        return world.sample_view(np.random.default_rng(_drawn(one, "view")))
    return world.View(math.radians(one.view["azimuth"]), math.radians(one.view["elevation"]))
