"""Runs of the embedded world against the truth: each object and the solid that its prompt asks for."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...metrics.truth import PERIODS_NEAR, PERIODS_OFF, SLOWEST, wilson_interval
from ...runs import files, image_files
from ...runs.folder import RunFolder, application_of, finished
from ...zoo import captions, world
from .. import registry
from ..text_to_3d.scene import load_scene
from ..text_to_3d.sections import NAME
from . import judge as judges
from .evidence import RESOLUTION, look_at
from .found import Run, find_runs, rows_of
from .kept import kept_as, remove_others
from .reachable import truth_through
from .truth_report import sheet

Load = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class _Found:
    """What was measured of a run.

    Attributes:
        measures: of the object.
        pictures: [2, V, H, W, 3] in [0, 1], of the object and of the solid in its pose.
        reachable: measures of the solid itself through this pipeline; None unless asked for.
    """

    measures: dict[str, Any]
    pictures: np.ndarray
    reachable: dict[str, Any] | None


class _Kept:
    """What was measured of one of a folder's runs, kept so that an interruption loses nothing but the run it meets.

    Args:
        folder: that is evaluated.
        name: of the run's folder.
        how: what the measures depend on beside the run.
    """

    def __init__(self, folder: pathlib.Path, name: str, how: tuple[Any, ...]):
        about = (*how, thresholds(), files.versions())
        self.measures, self.pictures = (kept_as(folder, name, "truth", about, end) for end in ("json", "png"))

    def read(self, reachable: bool) -> _Found | None:
        """None where nothing was kept, or not of the solid, which is `reachable`, though that is asked for."""
        if not (self.measures.exists() and self.pictures.exists()):
            return None
        kept = files.read_json(self.measures)
        if reachable and kept["reachable"] is None:
            return None
        strips = image_files.read_images([self.pictures])[0]
        side = strips.shape[1] // 2
        # [3, 2·H, V·W] as [2, V, H, W, 3].
        views = strips.unflatten(1, (2, side)).unflatten(3, (-1, side)).permute(1, 3, 2, 4, 0)
        return _Found(kept["object"], views.numpy(), kept["reachable"])

    def write(self, found: _Found) -> None:
        views = torch.from_numpy(found.pictures)
        image_files.save_png(self.pictures, views.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2))
        files.write_json(self.measures, {"object": found.measures, "reachable": found.reachable})
        for path in (self.measures, self.pictures):
            remove_others(path)


def evaluate_truth(
    folder: pathlib.Path,
    *,
    device: str | None = None,
    size: int | None = None,
    resolution: int = RESOLUTION,
    through: bool = False,
    load: Load | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures every finished run of a folder whose prompt is of the embedded model's world.

    What was measured of a folder's runs is kept in `DIR/evaluation/`, and a later call measures what is new.

    Args:
        folder: a run, or one with a run in each subfolder; `truth.json` and `truth.png` are written there.
        device: of rendering; None: the runs' own.
        size: latents (refined: pixels) per side of the views; None: as pictures for people have.
        resolution: points of the densities' lattice along an axis.
        through: measure the solids themselves too, put through this pipeline, once for each caption.
        load: takes the place of `load_scene`.
        told: is given a line for each object.

    Returns:
        What `truth.json` holds: `thresholds`, `rows` (one a method and choice of settings), `reachable` (the same of
        the solids, with their measures; None unless asked for), `objects` (each with its measures), `skipped`
        (reasons, by the names of folders).

    Raises:
        UsageError: no finished run that can be measured.
    """
    load = load or load_scene
    runs, places = _runs(folder)
    skipped = {name: reason for name, run in runs.items() if (reason := _unfit(run, places[name]))}
    fit = {name: run for name, run in runs.items() if name not in skipped}
    if not fit:
        raise _none(folder, skipped)
    objects: list[dict[str, Any]] = []
    shown: dict[str, np.ndarray] = {}
    solids: dict[str, dict[str, Any]] = {}
    for name, run in fit.items():
        asked = judges.asked_for(run.plain["prompt"])
        kept = _Kept(folder, name, (size, resolution, device)) if places[name] != folder else None
        wanted = through and asked.caption() not in solids
        started = time.perf_counter()
        found = kept.read(wanted) if kept else None
        took = "measured before" if found else ""
        if found is None:
            try:
                found = _measured(load(places[name], device=device), asked, size, resolution, wanted)
            except UsageError as error:
                # One damaged checkpoint is not a reason to measure none of the others.
                skipped[name] = str(error)
                continue
            if kept:
                kept.write(found)
        who = {key: run.plain[key] for key in ("prompt", "method", "seed")}
        objects.append({"folder": name, **who, **found.measures})
        shown[name] = found.pictures
        told(_line(objects[-1], took or f"{time.perf_counter() - started:.0f} s"))
        if wanted:
            assert found.reachable is not None
            solids[asked.caption()] = found.reachable
    if not objects:
        raise _none(folder, skipped)
    result = {
        "metric": "truth",
        "thresholds": thresholds(),
        "rows": [{**head, **summary(group)} for head, group in rows_of(runs, objects)],
        "reachable": {**summary([*solids.values()]), "solids": [*solids.values()]} if solids else None,
        "objects": objects,
        "skipped": skipped,
        "versions": files.versions(),
    }
    files.write_json(folder / "truth.json", result)
    files.write_atomically(folder / "truth.png", sheet(objects, shown))
    for name, place in places.items():
        if place == folder:
            RunFolder(folder, runs[name].entry.application).add_later(
                folder / f"truth.{end}" for end in ("json", "png")
            )
    return files.plain(result)


def _measured(scene: Any, asked: world.Scene, size: int | None, resolution: int, reachable: bool) -> _Found:
    found = judges.measure(look_at(scene, size=size, resolution=resolution), asked)
    if not reachable:
        return _Found(found.measures, found.pictures, None)
    solid = truth_through(scene, asked, size=size, resolution=resolution)
    return _Found(found.measures, found.pictures, judges.measure(solid, asked).measures)


def _none(folder: pathlib.Path, skipped: dict[str, str]) -> UsageError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
    return UsageError(f"{folder} does not hold a run that can be measured ({reasons})")


def _runs(folder: pathlib.Path) -> tuple[dict[str, Run], dict[str, pathlib.Path]]:
    """The runs, and where they are: those in a folder, or the one that it is."""
    if application_of(folder) is None:
        runs = find_runs(folder, others=False)
        return runs, {name: folder / name for name in runs}
    entry = registry.of_folder(folder)
    name = folder.absolute().name
    if entry is None:
        raise UsageError(f"{folder} is a run of {application_of(folder)}, which is not of this package")
    configuration = entry.application.read(folder)
    return {name: Run(entry, configuration, entry.described(configuration))}, {name: folder}


def _unfit(run: Run, place: pathlib.Path) -> str:
    """Why a run cannot be measured; empty if it can."""
    if run.entry.application.name != NAME:
        return f"a run of {run.entry.application.name}, which is not an object"
    if run.plain["model"] not in embedded_models():
        return f"its model {run.plain['model']} is not an embedded one"
    if captions.scene_of(run.plain["prompt"]) is None:
        return f"{run.plain['prompt']!r} is not a caption of the embedded model's world"
    return "" if finished(place) else "unfinished"


def thresholds() -> dict[str, Any]:
    """What an object has to reach to be right, by name."""
    return {
        "criteria": list(judges.CRITERIA),
        "least_iou": judges.LEAST_IOU,
        "least_body": judges.LEAST_BODY,
        "most_fog": judges.MOST_FOG,
        "margin": judges.MARGIN,
        "least_share": judges.LEAST_SHARE,
        "most_stray": judges.MOST_STRAY,
        "neither": judges.NEITHER,
        "periods_off": PERIODS_OFF,
        "periods_near": PERIODS_NEAR,
        "slowest_wave": SLOWEST,
        "names": list(world.COLOURS),
    }


def summary(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many of the objects are right, with Wilson's interval of 95 %; how many fail what; means of the measures."""
    right = sum(made["right"] for made in objects)

    def mean(of: Callable[[dict[str, Any]], float | None]) -> float | None:
        values = [value for made in objects if (value := of(made)) is not None]
        return statistics.fmean(values) if values else None

    errors = [p["error"] for made in objects for p in made["colour"]["parts"] if p["error"] is not None]
    return {
        "objects": len(objects),
        "right": right,
        "share": right / len(objects),
        "interval": list(wilson_interval(right, len(objects))),
        "failing": {name: sum(name in made["failing"] for made in objects) for name in judges.CRITERIA},
        "iou": mean(lambda made: made["shape"]["iou"]),
        "iou_silhouettes": mean(lambda made: made["shape"]["iou_silhouettes"]),
        "largest_body": mean(lambda made: made["shape"]["largest_body"]),
        "fog": mean(lambda made: made["cleanliness"]["fog"]),
        "opacity": mean(lambda made: made["cleanliness"]["opacity"]),
        "outline_fog": mean(lambda made: made["cleanliness"]["outline_fog"]),
        "normal_noise": mean(lambda made: made["cleanliness"]["normal_noise"]),
        "colour_error": statistics.fmean(errors) if errors else None,
        "neither": mean(lambda made: made["colour"]["neither"]),
        "agreement": mean(lambda made: (made["colour"]["pattern"] or {}).get("agreement")),
    }


def _line(made: dict[str, Any], took: str) -> str:
    verdict = "right" if made["right"] else "wrong: " + ", ".join(made["failing"])
    return f"{made['folder']}: {verdict} (IoU {made['shape']['iou']:.2f}, {took})"
