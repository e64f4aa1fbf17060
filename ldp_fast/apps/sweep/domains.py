"""What a sweep of adapted generators ends with, as the paper's Tables 2 and 3: FID, CLIP score, LPIPS over all pairs.

For each target domain (a prompt) and each guidance, of all samples that the runs left. Its applications are those whose
runs leave samples (`Entry.samples`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ...errors import UsageError
from ...guidance.loading import embedded_models
from ...metrics.pictures import find_pictures
from ...runs import files
from ...runs.folder import FORGOTTEN
from ...runs.names import name_of
from ...zoo.captions import scene_of
from ..evaluate import distances, perceptual
from ..evaluate.arguments import FEATURES, INCEPTION, RESIZERS
from ..evaluate.clip_scores import evaluate_clip_score
from ..evaluate.clips import Judge, check_known, load_clip
from ..evaluate.features import Keeping, digests_of
from ..evaluate.found import Run
from ..evaluate.gathered import Gathered, Group, Picture, finished_runs, samples_of
from . import truths

REAL = "real"
WORKING = ".pairs-"
FID, COSINE, SCORE, PAIRS = "fid", "cosine", "score", "lpips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of the table."""
    group = parser.add_argument_group("table", "what the samples of each prompt and guidance are compared by")
    group.add_argument(
        "--real",
        type=pathlib.Path,
        metavar="DIR",
        help="pictures of what the prompts ask for, for FID: in DIR a folder for each prompt, named as it or as its "
        "jobs are (a-red-sphere) (default: for the embedded model renders)",
    )
    group.add_argument(
        "--fid-features",
        metavar=FEATURES,
        help=f"what FID compares (default: clip for the embedded model, else {INCEPTION})",
    )
    group.add_argument("--fid-weights", type=pathlib.Path, metavar="FILE", help="of Inception; never fetched")
    group.add_argument(
        "--pairs-backbone",
        metavar="alex|vgg|clip|vae",
        help="network of LPIPS over all pairs, as in ldp-fast evaluate lpips (default: vae, or alex with "
        "--pairs-weights)",
    )
    group.add_argument(
        "--pairs-weights", type=pathlib.Path, metavar="FILE", help="torchvision's, of alex or vgg; never fetched"
    )


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command line says of the table.

    Attributes:
        real: the folder of the folders of real pictures.
        features: of FID.
        weights: of Inception.
        backbone: of LPIPS.
        backbone_weights: of LPIPS.
    """

    real: pathlib.Path | None = None
    features: str | None = None
    weights: pathlib.Path | None = None
    backbone: str | None = None
    backbone_weights: pathlib.Path | None = None


def asked(args: argparse.Namespace) -> Asked:
    """What a command line says of the table."""
    return Asked(args.real, args.fid_features, args.fid_weights, args.pairs_backbone, args.pairs_weights)


def check(asked: Asked, prompts: Iterable[str], model: str | None) -> None:
    """What would be wrong with the table after all jobs.

    Raises:
        UsageError: real pictures or a network that were named, and cannot be read.
    """
    if asked.real is not None:
        if not asked.real.is_dir():
            raise UsageError(f"--real: expected a folder, {asked.real} is not one")
        lacking = [prompt for prompt in dict.fromkeys(prompts) if real_folder(asked.real, prompt) is None]
        if lacking:
            names = ", ".join(f"{name_of(prompt)}/" for prompt in lacking[:3])
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            raise UsageError(
                f"--real: expected a folder of pictures for each prompt in {asked.real}: missing {names}{more}"
            )
        for prompt in prompts:
            find_pictures(real_folder(asked.real, prompt) or asked.real)
    if asked.features is not None or asked.weights is not None:
        load_features(asked, model)
    if asked.backbone is not None or asked.backbone_weights is not None:
        load_pairs(asked, model)


def real_folder(folder: pathlib.Path, prompt: str) -> pathlib.Path | None:
    """Where the pictures of a prompt are; None where they are not."""
    return next((path for path in (folder / name_of(prompt), folder / prompt) if path.is_dir()), None)


def load_features(asked: Asked, model: str | None) -> Any:
    """What FID compares.

    Raises:
        UsageError: it cannot be loaded; names the flag.
    """
    name = asked.features or ("clip" if model in embedded_models() and asked.weights is None else INCEPTION)
    try:
        return distances.load_features(name, asked.weights, RESIZERS[0], model, None)
    except UsageError as error:
        raise UsageError(_renamed(error, {"--features": "--fid-features", "--weights": "--fid-weights"})) from None


def load_pairs(asked: Asked, model: str | None) -> Any:
    """The network of LPIPS.

    Raises:
        UsageError: it cannot be loaded; names the flag.
    """
    try:
        return perceptual.load_lpips(asked.backbone, asked.backbone_weights, None, model, None)
    except UsageError as error:
        raise UsageError(_renamed(error, {"--backbone": "--pairs-backbone", "--weights": "--pairs-weights"})) from None


def _renamed(error: UsageError, flags: Mapping[str, str]) -> str:
    words = str(error)
    for name, ours in flags.items():
        words = words.replace(name, ours)
    return words


@dataclasses.dataclass
class _Row:
    """A run, or the real pictures of a prompt.

    Attributes:
        said: what the table has of it: prompt, losses, seed, folder, count.
        pictures: that are measured.
        real: of a run, the real pictures of its prompt; None where there are none.
    """

    said: dict[str, Any]
    pictures: list[Picture]
    real: _Row | None = None

    def gathered(self) -> Gathered:
        """As a metric takes it."""
        name = str(self.said["folder"] or f"{REAL} {self.said['prompt']}")
        return Gathered([Group(name, name, {}, self.pictures)], {}, None)


def measure(
    folder: pathlib.Path,
    records: Mapping[str, Mapping[str, Any]],
    asked: Asked,
    *,
    clip: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measures the samples of all finished jobs of a sweep.

    What networks made of pictures for FID and the CLIP score is kept in `DIR/evaluation/features/`, and distances of
    all pairs in `DIR/evaluation/pairs/`, so that a later call measures what is new.

    Args:
        folder: of the sweep.
        records: of its jobs, by the names of their folders.
        asked: how.
        clip: of the CLIP score; None chooses.
        progress: whether to show bars.

    Returns:
        `rows`: of each run and of each prompt's real pictures (whose `folder` is None and `losses` "real", with how
        they are seen where runs differ in that) `prompt`, `losses`, `seed`, `folder`, `count`, `fid`, `cosine`, `score`
        (100·max(cosine, 0)), `lpips` and `lpips_std`, None where not measured; `numbers`: the whole name of each
        number; `reasons`: why one could not be measured; `notes`; `real`: what FID compares with.

    Raises:
        UsageError: no samples, or damaged pictures.
    """
    places, runs, _ = finished_runs(folder, "runs")
    finished = [name for name, record in records.items() if record.get("status") == "finished" and name in runs]
    rows = []
    for name in finished:
        said = {key: records[name][key] for key in ("prompt", "losses", "seed")}
        rows.append(_Row({**said, "folder": name}, samples_of(name, places[name], runs[name])))
    if not rows:
        raise UsageError("no job of the sweep is finished")
    models = {runs[name].plain.get("model") for name in finished}
    model = models.pop() if len(models) == 1 else None
    keeping = Keeping(folder / "evaluation" / "features", progress=progress)
    found: dict[str, Any] = {"numbers": {}, "reasons": {}, "notes": [], "real": None}
    reals = _reals(folder, rows, [runs[name] for name in finished], asked, found)
    everything = [*rows, *reals]
    for row in everything:
        row.said |= {"count": len(row.pictures), **dict.fromkeys((FID, COSINE, SCORE, PAIRS, "lpips_std"))}

    def attempt(metric: str, what: Callable[[], None]) -> None:
        try:
            what()
        except UsageError as error:
            found["reasons"][metric] = str(error)

    attempt(FID, lambda: _distances(rows, load_features(asked, model), keeping, found))
    attempt(COSINE, lambda: _scores(everything, load_clip(clip, model, None), keeping, found))
    attempt(PAIRS, lambda: _pairs(everything, load_pairs(asked, model), folder / "evaluation", progress, found))
    return {**found, "rows": [row.said for row in everything]}


def _reals(
    folder: pathlib.Path, rows: Sequence[_Row], runs: Sequence[Run], asked: Asked, found: dict[str, Any]
) -> list[_Row]:
    """The real pictures of each prompt that has some, for each way in which its runs are seen; rows get theirs."""
    reals: dict[tuple[str, str], _Row] = {}
    labels: dict[str, str] = {}
    for row, run in zip(rows, runs, strict=True):
        prompt = row.said["prompt"]
        about, how, find = _real_of(folder / "evaluation" / REAL, prompt, run, row, asked)
        if (prompt, about) not in reals and (paths := find()):
            labels[about] = how
            said = {"prompt": prompt, "losses": REAL, "seed": None, "folder": None}
            reals[prompt, about] = _Row(said, [Picture(f"{REAL}/{path.name}", path, prompt) for path in paths])
        row.real = reals.get((prompt, about))
    kinds: dict[str, list[str]] = {}
    for prompt, about in reals:
        kinds.setdefault(about, []).append(prompt)
    if len(kinds) > 1:
        for (_, about), real in reals.items():
            real.said["losses"] = f"{REAL}, {labels[about]}"
        kinds = {f"{about} ({', '.join(prompts)})": prompts for about, prompts in kinds.items()}
    for prompt in dict.fromkeys(prompt for prompt, _ in reals):
        if sum(prompt == other for other, _ in reals) > 1:
            found["notes"].append(f"the runs of {prompt!r} have FID to different pictures: do not compare them")
    found["real"] = " and ".join(kinds) or None
    return list(reals.values())


def _real_of(
    folder: pathlib.Path, prompt: str, run: Run, row: _Row, asked: Asked
) -> tuple[str, str, Callable[[], Sequence[pathlib.Path]]]:
    """What the real pictures are that a run is compared with, how they are seen, and what finds or makes them."""
    if asked.real is not None:
        place = real_folder(asked.real, prompt)
        return f"the pictures in {asked.real}", "", lambda: [] if place is None else find_pictures(place).pictures
    if run.plain.get("model") not in embedded_models() or scene_of(prompt) is None:
        return "", "", lambda: []
    kind, size = truths.kind_of(run.plain.get("generator")), _side(row.pictures[0].file)
    how = f"{truths.SEEN[kind]}, {size} pixels"
    about = f"{truths.COUNT} renders of the prompt, seen {how}"
    return about, how, lambda: truths.rendered(folder, prompt, kind, size)


def _side(picture: pathlib.Path) -> int:
    from PIL import Image

    with Image.open(picture) as opened:
        return opened.size[0]


def _distances(rows: Sequence[_Row], features: Any, keeping: Keeping, found: dict[str, Any]) -> None:
    if all(row.real is None for row in rows):
        raise UsageError(
            "FID needs pictures of what the prompts ask for: give --real DIR with a folder for each prompt"
        )
    names = set()
    for row in rows:
        if row.real is not None:
            told = found["notes"].append
            one = distances.evaluate_distance("fid", row.gathered(), row.real.gathered(), features, keeping, told=told)
            row.said[FID] = one["rows"][0]["value"]
            names.add(one["rows"][0]["number"])
    found["notes"] = list(dict.fromkeys(found["notes"]))
    found["numbers"][FID] = "; ".join(sorted(names))


def _scores(rows: Sequence[_Row], clip: Any, keeping: Keeping, found: dict[str, Any]) -> None:
    check_known([clip], [row.said["prompt"] for row in rows])
    judge = Judge(clip, keeping)
    for row in rows:
        one = evaluate_clip_score(row.gathered(), [judge])["rows"][0]
        row.said |= {COSINE: one["cosine"]["mean"], SCORE: one["score"]["mean"]}
    found["numbers"][COSINE] = f"mean cosine of pictures and prompt ({judge.name})"


def _sweep_up(folder: pathlib.Path) -> None:
    """Removes features that a killed process has left, which may be some gigabytes; not those of one at work."""
    for place in folder.glob(f"{WORKING}*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(place)


def _pairs(rows: Sequence[_Row], lpips: Any, folder: pathlib.Path, progress: bool, found: dict[str, Any]) -> None:
    _sweep_up(folder)
    for row in rows:
        if len(row.pictures) < 2:
            continue
        about = json.dumps([lpips.name, lpips.digest, digests_of(row.pictures)])
        kept = folder / "pairs" / f"{hashlib.sha256(about.encode()).hexdigest()[:16]}.json"
        one = files.read_json(kept) if kept.exists() else None
        if one is None:
            # Features of a picture may take a megabyte: what is kept is what comes of them.
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=WORKING, dir=folder) as place:
                keeping = Keeping(pathlib.Path(place), progress=progress)
                one = perceptual.evaluate_pairs(row.gathered(), lpips, keeping, alike=0)["rows"][0]["distance"]
            files.write_json(kept, one)
        row.said |= {PAIRS: one["mean"], "lpips_std": one["std"]}
    found["numbers"][PAIRS] = f"{lpips.name}, mean over all pairs"
