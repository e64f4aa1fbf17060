"""The paper's R-Precision (§4.1) over a folder of runs."""

from __future__ import annotations

import collections
import hashlib
import json
import math
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...metrics import ClipScorer, judge_of, r_precision
from ...runs import files, image_files
from ...runs.folder import finished, sweep_up
from ...zoo import captions, world
from ..hub import reachable
from .found import Run, find_runs, rows_of
from .kept import kept_as, kept_picture, remove_others

OPENAI = "openai/clip-vit-base-patch32"
View = tuple[float, float]


class _Scorer(ClipScorer):
    """Keeps the features of captions, for an evaluation asks for those of its pool several times."""

    def __init__(self, *parts: Any):
        super().__init__(*parts)
        self._kept: dict[tuple[str, ...], torch.Tensor] = {}

    def text_features(self, captions: Sequence[str]) -> torch.Tensor:
        key = tuple(captions)
        if key not in self._kept:
            self._kept[key] = super().text_features(captions)
        return self._kept[key]


def evaluate_r_precision(
    folder: pathlib.Path,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    distractors: int = 99,
    clip: str | None = None,
    pool: Sequence[str] | None = None,
    elevation: View | None = None,
    device: str | None = None,
    load: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """The protocol: for each finished object and each seed a view from a random camera, its prompt against distractors.

    Camera and distractors depend on the prompt, the run's seed and the evaluation's seed only, so that methods and
    losses are compared on the same views. Views are kept in `DIR/evaluation/`, and a later call renders what is new.

    Args:
        folder: with a run in each subfolder.
        seeds: of the evaluation.
        distractors: how many a view.
        clip: what `ClipScorer.from_pretrained` takes; None chooses.
        pool: where distractors come from. None: the folder's prompts, and for the embedded model its world's captions.
        elevation: range of the cameras, degrees. None: what each run was trained from, without views from overhead.
        device: of rendering and CLIP; None: the runs' own, and for CLIP a GPU if there is one.
        load: takes the place of what loads a run; None loads it.

    Returns:
        What `evaluation.json` holds: `protocol`, `rows` (one a method and choice of settings: mean and standard
        deviation over the repetitions, which are the runs' seeds times the evaluation's) and `objects` (each view).

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
    every = find_runs(folder)
    runs = {name: run for name, run in every.items() if finished(folder / name)}
    if not runs:
        raise UsageError(f"{folder} does not hold a finished run ({len(every)} unfinished)")
    embedded = all(run.plain["model"] in embedded_models() for run in runs.values())
    if pool is None:
        pool = [scene.caption() for scene in world.all_scenes()] if embedded else []
        pool = [*pool, *sorted({run.plain["prompt"] for run in every.values()})]
    different = len({captions.identity(caption) for caption in pool})
    if different <= distractors:
        raise UsageError(
            f"--distractors: {distractors} and the right one were asked for, but there are {different} different "
            f"prompts; give more of them with --prompts FILE, or fewer --distractors"
        )
    clip = clip or (judge_of(next(iter(runs.values())).plain["model"]) if embedded else OPENAI)
    judge = reachable("--clip", clip, "config.json")
    scorer = _Scorer.from_pretrained(judge, device or ("cuda" if torch.cuda.is_available() else "cpu"))

    sweep_up(folder / "evaluation")
    objects: list[dict[str, Any]] = []
    images: list[torch.Tensor] = []
    for name, run in runs.items():
        views = [random_view(run, seed, elevation) for seed in seeds]
        images += _views(folder, name, run, views, seeds, device, load)
        found = [{"seed": seed, "azimuth": v[0], "elevation": v[1]} for seed, v in zip(seeds, views, strict=True)]
        objects.append({"folder": name, **_who(run.plain), "views": found})
    _judge(scorer, images, objects, pool, distractors)
    truth = _truth(scorer, runs, seeds, elevation, pool, distractors) if embedded else None
    result = {
        "metric": "r-precision",
        "protocol": {
            "seeds": seeds,
            "distractors": distractors,
            "clip": clip,
            "elevation": elevation and list(elevation),
            "pool": different,
        },
        "rows": _rows(runs, objects),
        "truth": truth,
        "unfinished": sorted(every.keys() - runs.keys()),
        "objects": objects,
        "versions": files.versions(),
    }
    files.write_json(folder / "evaluation.json", result)
    return files.plain(result)


def _who(configuration: dict[str, Any]) -> dict[str, Any]:
    return {name: configuration[name] for name in ("prompt", "method", "seed")}


def _draw(configuration: dict[str, Any], seed: int, purpose: str) -> int:
    """A seed of 63 bits, the same for every method and every choice of losses."""
    words = json.dumps([purpose, configuration["prompt"], configuration["seed"], seed])
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) >> 1


def random_view(run: Run, seed: int, elevation: View | None) -> View:
    """Azimuth (any) and elevation, in degrees."""
    low, high = elevation or run.entry.elevations(run.configuration)
    rng = np.random.default_rng(_draw(run.plain, seed, "view"))
    return round(float(rng.uniform(0, 360)), 3), round(float(rng.uniform(low, high)), 3)


def _views(
    folder: pathlib.Path,
    name: str,
    run: Run,
    views: Sequence[View],
    seeds: Sequence[int],
    device: str | None,
    load: Callable[..., Any] | None,
) -> list[torch.Tensor]:
    """Decoded views `[3, H, W]` of a run, one a seed, from `DIR/evaluation/`; what is missing there is rendered."""
    paths = [kept_as(folder, name, run, f"view{seed}", view, "png") for seed, view in zip(seeds, views, strict=True)]
    kept = [kept_picture(path) for path in paths]
    missing = [i for i, picture in enumerate(kept) if picture is None]
    if missing:
        wanted = [views[i] for i in missing]
        drawn = run.entry.pictures(folder / name, run.configuration, wanted, device=device, load=load)
        for i, picture in zip(missing, drawn, strict=True):
            image_files.save_png(paths[i], picture)
            remove_others(paths[i])
            # From the file, so that a view judged again is the very same.
            kept[i] = image_files.read_images([paths[i]])[0]
    return [picture for picture in kept if picture is not None]


def _judge(
    scorer: ClipScorer, images: list[torch.Tensor], objects: list[dict[str, Any]], pool: Sequence[str], distractors: int
) -> None:
    """Says of each view of the objects, whose `images` `[3, H, W]` lie in the same order, whether it is a `hit`."""
    views = [(found, view) for found in objects for view in found["views"]]
    by_size = collections.defaultdict(list)
    for i, image in enumerate(images):
        by_size[image.shape].append(i)
    for indices in by_size.values():
        verdicts = r_precision(
            scorer,
            torch.stack([images[i] for i in indices]),
            [views[i][0]["prompt"] for i in indices],
            pool,
            distractors=distractors,
            seed=[_draw(views[i][0], views[i][1]["seed"], "distractors") for i in indices],
            identity=captions.identity,
        )
        for i, hit in zip(indices, verdicts.tolist(), strict=True):
            views[i][1]["hit"] = hit


def _truth(
    scorer: ClipScorer,
    runs: dict[str, Run],
    seeds: Sequence[int],
    elevation: View | None,
    pool: Sequence[str],
    distractors: int,
) -> dict[str, Any] | None:
    """The same for renders of what the prompts ask for: what this CLIP could give at most; None for other prompts."""
    asked = {(run.plain["prompt"], run.plain["seed"]): run for run in runs.values()}
    objects: list[dict[str, Any]] = []
    images: list[torch.Tensor] = []
    for run in asked.values():
        scene = captions.scene_of(run.plain["prompt"])
        if scene is None:
            return None
        for azimuth, height in [random_view(run, seed, elevation) for seed in seeds]:
            array = world.render(scene, world.View(math.radians(azimuth), math.radians(height)))
            images.append(torch.from_numpy(array).permute(2, 0, 1).float() / 255)
        objects.append({**_who(run.plain), "views": [{"seed": seed} for seed in seeds]})
    _judge(scorer, images, objects, pool, distractors)
    return _mean(objects)


def _mean(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation (n − 1) over the repetitions: each seed of the runs with each of the evaluation."""
    by_seed = collections.defaultdict(list)
    for found in objects:
        by_seed[found["seed"]].append([view["hit"] for view in found["views"]])
    repetitions = [statistics.fmean(column) for hits in by_seed.values() for column in zip(*hits, strict=True)]
    return {
        "objects": len(objects),
        "prompts": len({found["prompt"] for found in objects}),
        "mean": statistics.fmean(repetitions),
        "std": statistics.stdev(repetitions) if len(repetitions) > 1 else None,
        "repetitions": repetitions,
    }


def _rows(runs: dict[str, Run], objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a configuration, prompt and seed aside."""
    return [{**head, **_mean(group)} for head, group in rows_of(runs, objects)]
