"""The same question for objects: `ldp-fast sweep` makes each prompt with each choice of terms, the truth judges them.

Few of them: an object takes minutes. Both steps continue where they were interrupted.
"""

from __future__ import annotations

import contextlib
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ldp_fast.apps.evaluate import judge
from ldp_fast.apps.evaluate.evidence import look_at
from ldp_fast.apps.evaluate.found import Run, find_runs, rows_of
from ldp_fast.apps.evaluate.kept import key_of
from ldp_fast.apps.evaluate.measured import measured_by
from ldp_fast.apps.evaluate.truth import summary, thresholds
from ldp_fast.apps.text_to_3d.scene import load_scene
from ldp_fast.apps.variants import VARIANTS
from ldp_fast.errors import UsageError
from ldp_fast.runs import files
from ldp_fast.runs.folder import finished

from .measures import Perception, halved, laplacian_energy

METHODS = ("latent-nerf", "jacobian-nerf")


def command(folder: pathlib.Path, prompts: int, prompt_seed: int, more: Sequence[str] = ()) -> list[str]:
    """The sweep: defaults of both methods, every choice of terms."""
    words = [sys.executable, "-m", "ldp_fast", "sweep", "--random-prompts", str(prompts)]
    words += ["--prompt-seed", str(prompt_seed), "--method", *METHODS, "--losses", *VARIANTS]
    return [*words, "--no-film", "--no-mesh", "--out", str(folder), *more]


def make(words: Sequence[str], seconds: float, stop: Callable[[], bool] = lambda: False) -> int:
    """Runs a command, for so many seconds at most or until it is to stop; then it is interrupted as by Ctrl-C.

    Returns:
        Its exit code.
    """
    # A Ctrl-C goes to the whole group of a terminal: the one sent here would be the second, which saves nothing.
    process, ends, told = subprocess.Popen(words, process_group=0), time.monotonic() + seconds, False
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=0.5)
            if not told and (stop() or time.monotonic() > ends):
                process.send_signal(signal.SIGINT)
                told = True
    finally:
        if process.poll() is None:  # interrupted for the second time
            process.kill()
            process.wait()


def measure(
    folder: pathlib.Path,
    perception: Perception,
    name: str,
    *,
    load: Callable[..., Any] = load_scene,
    told: Callable[[str], None] = print,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Measures the finished objects of a sweep that are not measured yet; a record each, in `FOLDER/measures`.

    Args:
        folder: of the sweep.
        perception: the perceptual distance.
        name: of its CLIP; records of another, of another run or by other thresholds, are made anew.
        load: as `load_scene`.
        told: is given a line for each object.
        stop: asked before each object.
    """
    if not any(folder.glob("*/config.yaml")):
        return  # it was stopped before the first one
    for run, found in find_runs(folder).items():
        file, key = folder / "measures" / f"{run}.json", _key(folder / run, found, name)
        if stop() or not finished(folder / run) or (file.exists() and files.read_json(file).get("key") == key):
            continue
        asked = judge.asked_for(found.plain["prompt"])
        try:
            verdict = judge.measure(look_at(load(folder / run)), asked)
        except UsageError as error:
            # One damaged checkpoint is not a reason to measure none of the others.
            told(f"{run}: {error}")
            continue
        about = {"folder": run, "key": key}
        record = {**about, **verdict.measures, **_detail(verdict.pictures, perception)}
        files.write_json(file, record)
        told(f"{run}: {'right' if record['right'] else 'wrong: ' + ', '.join(record['failing'])}")


def _key(place: pathlib.Path, run: Run, name: str) -> str:
    """What a record has to have been made of: this run, this CLIP, and what is asked of an object now."""
    return key_of(place, run, (name, thresholds(), measured_by()))


def _detail(pictures: np.ndarray, perception: Perception) -> dict[str, float]:
    """Of views beside those of the solid, [2, V, H, W, 3]: ratio of Laplacian energies at half size, and distance."""
    made, true = pictures.astype(np.float64)
    energies = [[laplacian_energy(halved(view)) for view in views] for views in (made, true)]
    ratios = [a / max(b, 1e-9) for a, b in zip(*energies, strict=True)]
    both = [torch.from_numpy(x).permute(0, 3, 1, 2).float() for x in (made, true)]
    return {
        "laplacian_half": statistics.geometric_mean(max(ratio, 1e-9) for ratio in ratios),
        "perceptual": float(perception.distance(*both).mean()),
    }


def rows(folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """What is measured so far with a CLIP, a row a method and choice of terms; none where there is no sweep."""
    if not (folder / "measures").is_dir():
        return []
    runs = find_runs(folder)
    objects = [files.read_json(file) for file in sorted((folder / "measures").glob("*.json"))]
    keys = {run: _key(folder / run, found, name) for run, found in runs.items()}
    objects = [made for made in objects if "key" in made and made["key"] == keys.get(made["folder"])]
    found = []
    for head, group in rows_of(runs, objects):
        detail = {
            "laplacian_half": statistics.geometric_mean(made["laplacian_half"] for made in group),
            "perceptual": statistics.fmean(made["perceptual"] for made in group),
        }
        found.append({**head, **summary(group), **detail})
    return found
