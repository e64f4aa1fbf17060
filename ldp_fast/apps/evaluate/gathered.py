"""The pictures that a metric looks at: those of folders, and views of runs."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import UsageError
from ...metrics.pictures import KNOWN, SUFFIXES, find_pictures, some
from ...runs.folder import application_of, finished, sweep_up
from .. import registry
from .captioned import captions_of
from .found import Run, find_runs, rows_of
from .views import View, Views, random_view, render_missing

SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is measured.

    Attributes:
        name: in its folder; of a view of a run `RUN/view0`, of an image `RUN/image.png`.
        file: where it lies.
        caption: what it is compared with; None for metrics without captions.
    """

    name: str
    file: pathlib.Path
    caption: str | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Pictures that are measured together: a row of the table.

    Attributes:
        path: as it was typed.
        label: the path, and which of its runs where they make several rows.
        about: of runs their `method`, `losses`, λ's and `settings`.
        pictures: in the order of their names.
    """

    path: str
    label: str
    about: dict[str, Any]
    pictures: list[Picture]


@dataclasses.dataclass(frozen=True)
class Looking:
    """How runs are looked at.

    Attributes:
        seeds: of the cameras; one view of an object each.
        elevation: range of the cameras, degrees; None: what each run was trained from.
        device: of rendering; None: the runs' own.
        load: takes the place of what loads a run.
        out: where views are kept in place of `PATH/evaluation/`.
        progress: whether to show bars.
    """

    seeds: Sequence[int] = SEEDS
    elevation: View | None = None
    device: str | None = None
    load: Callable[..., Any] | None = None
    out: pathlib.Path | None = None
    progress: bool = True


@dataclasses.dataclass(frozen=True)
class Gathered:
    """What was found.

    Attributes:
        groups: the rows.
        left_out: by path, the names of what is not measured: `not pictures`, `unfinished`.
        model: that made all of it, where all of it are runs of one model; None otherwise.
        views: `seeds` and `elevation` of the cameras, where runs were looked at from any side; None otherwise.
    """

    groups: list[Group]
    left_out: dict[str, dict[str, list[str]]]
    model: str | None
    views: dict[str, Any] | None = None

    def pictures(self) -> list[Picture]:
        """Of all groups."""
        return [picture for group in self.groups for picture in group.pictures]


def kind_of(path: pathlib.Path) -> str:
    """What a path is: `run`, `runs` (a folder with a run in some subfolder) or `pictures`.

    Raises:
        UsageError: it is not a folder, or holds neither.
    """
    if not path.is_dir():
        raise UsageError(f"{path} {'is not a folder' if path.exists() else 'does not exist'}")
    if application_of(path) is not None:
        return "run"
    if any(application_of(found.parent) for found in path.glob("*/config.yaml")):
        return "runs"
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name not in KNOWN]
    if not any(entry.is_file() for entry in entries):
        names = sorted(f"{entry.name}/" for entry in entries)
        holds = f"it holds {some(names)}" if names else "it is empty"
        kinds = "runs (folders with config.yaml) or pictures (PNG, JPEG or WebP)"
        raise UsageError(f"{path} does not hold {kinds}: {holds}")
    return "pictures"


def gather(
    paths: Sequence[pathlib.Path], *, captions: bool, prompt: str | None = None, looking: Looking | None = None
) -> Gathered:
    """The pictures of folders, runs and sweeps.

    Args:
        paths: of folders.
        captions: whether the metric compares pictures with captions.
        prompt: the caption of all pictures of folders.
        looking: how runs are looked at.

    Raises:
        UsageError: a path without pictures and finished runs, or pictures and captions that lack each other.
    """
    looking = looking or Looking()
    groups: list[Group] = []
    left_out: dict[str, dict[str, list[str]]] = {}
    models: set[str | None] = set()
    turned = False
    for index, path in enumerate(dict.fromkeys(paths)):
        kind = kind_of(path)
        if kind == "pictures":
            groups.append(_of_folder(path, captions, prompt, left_out))
            models.add(None)
            continue
        if prompt is not None:
            raise UsageError(f"--prompt: {path} holds runs, which have prompts of their own")
        places, runs, unfinished = finished_runs(path, kind)
        if unfinished:
            left_out[str(path)] = {"unfinished": sorted(unfinished)}
        models |= {run.plain.get("model") for run in runs.values()}
        turned = turned or any(run.entry.judged for run in runs.values())
        groups += _of_runs(path, places, runs, looking, index)
    heights = looking.elevation and list(looking.elevation)
    views = {"seeds": list(looking.seeds), "elevation": heights} if turned else None
    return Gathered(groups, left_out, models.pop() if len(models) == 1 else None, views)


def _of_folder(
    path: pathlib.Path, captions: bool, prompt: str | None, left_out: dict[str, dict[str, list[str]]]
) -> Group:
    found = find_pictures(path)
    if found.others:
        left_out[str(path)] = {"not pictures": found.others}
    names = [picture.name for picture in found.pictures]
    said = captions_of(path, names, prompt, needed=captions)
    pictures = [Picture(file.name, file, caption) for file, caption in zip(found.pictures, said, strict=True)]
    return Group(str(path), str(path), {}, pictures)


def finished_runs(path: pathlib.Path, kind: str) -> tuple[dict[str, pathlib.Path], dict[str, Run], dict[str, Run]]:
    """The folders of the finished runs of a path and these runs, by the folders' names; and those that are unfinished.

    Args:
        path: a run, or a folder with a run in some subfolder.
        kind: which of them, see `kind_of`.

    Raises:
        UsageError: there is not a finished one, or it is of an application that is not known.
    """
    if kind == "run":
        entry = registry.of_folder(path)
        if entry is None:
            raise UsageError(f"{path} is a run of {application_of(path)}: say where that is, with --application")
        if not finished(path):
            raise UsageError(f"{path} is an unfinished run")
        configuration = entry.application.read(path)
        name = path.absolute().name
        return {name: path}, {name: Run(entry, configuration, entry.described(configuration))}, {}
    every = find_runs(path)
    runs = {name: run for name, run in every.items() if finished(path / name)}
    if not runs:
        raise UsageError(f"{path} does not hold a finished run ({len(every)} unfinished)")
    unfinished = {name: run for name, run in every.items() if name not in runs}
    return {name: path / name for name in runs}, runs, unfinished


def _of_runs(
    path: pathlib.Path,
    places: dict[str, pathlib.Path],
    runs: dict[str, Run],
    looking: Looking,
    index: int,
) -> list[Group]:
    kept = path / "evaluation" if looking.out is None else looking.out / "views" / f"{index}-{path.absolute().name}"
    sweep_up(kept)
    views = {name: _views_of(places[name], run, looking, kept) for name, run in runs.items() if run.entry.judged}
    render_missing(list(views.values()), device=looking.device, load=looking.load, progress=looking.progress)
    pictures = {name: _of_run(name, places[name], run, views.get(name)) for name, run in runs.items()}
    rows = rows_of(runs, [{"folder": name} for name in runs])
    groups = []
    for head, objects in rows:
        about = {key: value for key, value in head.items() if key != "folders"}
        label = str(path) if len(rows) == 1 else f"{path}: {described(about)}"
        shown = [picture for found in objects for picture in pictures[found["folder"]]]
        groups.append(Group(str(path), label, about, shown))
    return groups


def described(about: dict[str, Any]) -> str:
    """What tells a row of runs from others, for a table."""
    settings = "".join(f", {name} {value}" for name, value in about["settings"].items())
    return f"{about['method']}, {about['losses']}{settings}"


def _views_of(place: pathlib.Path, run: Run, looking: Looking, kept: pathlib.Path) -> Views:
    cameras = [random_view(run, seed, looking.elevation) for seed in looking.seeds]
    return Views(place, run, cameras, [f"view{seed}" for seed in looking.seeds], kept)


def samples_of(name: str, place: pathlib.Path, run: Run) -> list[Picture]:
    """The pictures that a run has left for metrics, by their names; empty for an application without such.

    Args:
        name: of the run's folder.
        place: that folder.
        run: that is there.

    Raises:
        UsageError: there are none of them.
    """
    folder = run.entry.samples
    if not folder:
        return []
    if not (place / folder).is_dir():
        raise UsageError(
            f"{place} does not hold {folder}/, for its run was made without; ldp-fast generate {place} --count N --out "
            f"DIR makes a folder of pictures, which can be measured"
        )
    found = find_pictures(place / folder).pictures
    return [Picture(f"{name}/{folder}/{file.name}", file, run.plain["prompt"]) for file in found]


def _of_run(name: str, place: pathlib.Path, run: Run, views: Views | None) -> list[Picture]:
    prompt = run.plain["prompt"]
    if run.entry.samples:
        return samples_of(name, place, run)
    if views is not None:
        return [Picture(f"{name}/{of}", file, prompt) for of, file in zip(views.names, views.files(), strict=True)]
    # It has one side only, and looks the same from every camera.
    file = run.entry.application.result
    if not (place / file).is_file() or pathlib.PurePath(file).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{place} does not hold a picture: {file} was expected")
    return [Picture(f"{name}/{file}", place / file, prompt)]
