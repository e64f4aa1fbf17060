"""Runs of the embedded world against the truth: each object and the solid that its prompt asks for."""

from __future__ import annotations

import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...metrics.truth import PERIODS_NEAR, PERIODS_OFF, SLOWEST, wilson_interval
from ...runs import files
from ...runs.folder import RunFolder, application_of, finished, sweep_up
from ...zoo import captions, world
from .. import registry
from ..text_to_3d.scene import load_scene
from ..text_to_3d.sections import NAME
from . import judge as judges
from .evidence import RESOLUTION
from .found import Run, find_runs, rows_of
from .measured import Kept, measure
from .truth_report import sheet

Load = Callable[..., Any]


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
    sweep_up(folder / "evaluation")
    load = load or load_scene
    runs, places = _runs(folder)
    skipped = {name: reason for name, run in runs.items() if (reason := _unfit(run, places[name]))}
    fit = {name: run for name, run in runs.items() if name not in skipped}
    if not fit:
        raise _none(folder, skipped)
    objects: list[dict[str, Any]] = []
    shown: dict[str, np.ndarray] = {}
    reachable: dict[str, dict[str, Any]] = {}
    for name, run in fit.items():
        started = time.perf_counter()
        asked = judges.asked_for(run.plain["prompt"])
        kept = Kept(folder, name, run, (size, resolution, thresholds())) if places[name] != folder else None
        measured = kept.read() if kept else None
        wanted = through and asked.caption() not in reachable
        took = "measured before"
        if measured is None or (wanted and measured.reachable is None):
            try:
                scene = load(places[name], device=device)
                measured = measure(scene, asked, size, resolution, wanted, measured)
            except UsageError as error:
                # One damaged checkpoint is not a reason to measure none of the others.
                skipped[name] = str(error)
                continue
            if kept:
                kept.write(measured)
            took = f"{time.perf_counter() - started:.0f} s"
        who = {key: run.plain[key] for key in ("prompt", "method", "seed")}
        objects.append({"folder": name, **who, **measured.object})
        shown[name] = measured.pictures
        told(_line(objects[-1], took))
        if wanted and measured.reachable is not None:
            reachable[asked.caption()] = measured.reachable
    if not objects:
        raise _none(folder, skipped)
    solids = list(reachable.values())
    result = {
        "metric": "truth",
        "thresholds": thresholds(),
        "rows": [{**head, **summary(group)} for head, group in rows_of(runs, objects)],
        "reachable": {**summary(solids), "solids": solids} if solids else None,
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
        return f"a run of {run.entry.application.name}, and not of {NAME}, whose fields have the densities to measure"
    if run.plain.get("model") not in embedded_models():
        return f"its model {run.plain.get('model')} is not an embedded one"
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
        "most_in_hole": judges.MOST_IN_HOLE,
        "least_opacity": judges.LEAST_OPACITY,
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
        "hole": mean(lambda made: made["cleanliness"]["hole"]),
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
