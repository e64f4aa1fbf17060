"""What is sampled: which captions at which views, with which weights."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldp_fast.apps.text_to_3d.cameras import CameraRanges, direction_of
from ldp_fast.apps.text_to_3d.configuration import defaults
from ldp_fast.errors import UsageError
from ldp_fast.guidance.loading import locate, notes_of
from ldp_fast.zoo import captions, world

from ..terms.plan import digest

METHOD = "latent-nerf"  # whose cameras are asked for; those of both methods have the same words
SETS = {"seen": False, "held out": True}
ELEVATIONS = np.linspace(-90, 90, 1801)  # degrees, at which words are looked up


@dataclasses.dataclass(frozen=True)
class Task:
    """One picture.

    Attributes:
        number: of it, among all.
        group: one of `SETS`.
        caption: without a view.
        view: the words of the view that is asked for, such as `low front`.
    """

    number: int
    group: str
    caption: str
    view: str

    @property
    def prompt(self) -> str:
        """As text-to-3D has it."""
        return f"{self.caption}, {self.view} view"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What decides the pictures.

    Attributes:
        source: `samples` of the model, or `truth`, renders.
        seen, held_out: captions.
        views: words of the views.
        heights: words for heights, as `direction_of` takes them.
        each: of the views, at how many a caption is sampled.
        samples: of each caption at each of its views.
        seed: of captions and noise.
        weights: digest of the model; of true renders empty.
        steps: DDIM's; of true renders 0.
        guidance: s of classifier-free guidance; of true renders 0.
    """

    source: str
    seen: tuple[str, ...]
    held_out: tuple[str, ...]
    views: tuple[str, ...]
    heights: Mapping[str, float]
    each: int
    samples: int
    seed: int
    weights: str
    steps: int
    guidance: float

    def tasks(self) -> list[Task]:
        """All pictures; those of one sample of everything before those of the next."""
        named = {"seen": self.seen, "held out": self.held_out}
        chosen = [
            (group, caption, self.views[(i + j * len(self.views) // self.each) % len(self.views)])
            for group in SETS
            for i, caption in enumerate(named[group])
            for j in range(self.each)
        ]
        return [Task(i, *task) for i, task in enumerate(chosen * self.samples)]


def plan_of(
    model: str,
    *,
    seen: int,
    held_out: int,
    samples: int,
    each: int | None,
    seed: int,
    steps: int,
    guidance: float | None,
    truth: bool,
) -> Plan:
    """The plan for a model.

    Args:
        model: a name or a folder.
        seen, held_out: how many captions.
        samples, seed, steps: as in `Plan`.
        each: as in `Plan`; None takes all views.
        guidance: None takes the model's own.
        truth: renders instead of samples.

    Raises:
        UsageError: a number out of range, or a model that does not know the embedded world's words.
    """
    notes = _notes(model)
    heights: dict[str, float] = notes.get("heights", {})
    views = CameraRanges(**defaults(METHOD, True)["cameras"]).directions(heights)
    each = len(views) if each is None else each
    counts = {"--captions": (seen, False), "--held-out": (held_out, True)}
    for name, (count, apart) in counts.items():
        _within(name, count, 0, captions.count_of(held_out=apart))
    _within("--captions and --held-out together", seen + held_out, 1)
    _within("--samples", samples, 1)
    _within("--views-each", each, 1, len(views))
    _within("--seed", seed, 0)
    _within("--steps", steps, 1, 1000)
    if guidance is None:
        guidance = notes.get("guidance_scale")
        if guidance is None:
            raise UsageError(f"--guidance-scale: expected a number, for {model} does not name its own")
    if not math.isfinite(guidance):
        raise UsageError(f"--guidance-scale: expected a finite number, got {guidance}")
    return Plan(
        source="truth" if truth else "samples",
        seen=tuple(captions.draw(seen, seed, held_out=False)),
        held_out=tuple(captions.draw(held_out, seed, held_out=True)),
        views=views,
        heights=heights,
        each=each,
        samples=samples,
        seed=seed,
        weights="" if truth else digest(model),
        steps=0 if truth else steps,
        guidance=0.0 if truth else float(guidance),
    )


def _notes(model: str) -> dict[str, Any]:
    if not pathlib.Path(locate(model)).is_dir():
        raise UsageError(f"--model: expected an embedded model or a folder, got {model!r}")
    notes = notes_of(model)
    words = {word for caption in captions.draw(100, 0, held_out=False) for word in caption.split()}
    missing = sorted(words - set(notes.get("words", ())))
    if missing:
        raise UsageError(
            f"--model: expected a model of the embedded world, got {model!r}, whose ldp_fast.json does not list "
            f"{', '.join(missing[:3])} among its words"
        )
    return notes


def _within(name: str, value: int, low: int, high: int | None = None) -> None:
    if value < low or (high is not None and value > high):
        what = f"at least {low}" if high is None else f"{low} to {high}"
        raise UsageError(f"{name}: expected {what}, got {value}")


def height_of(words: str) -> str:
    """What a view's words say of the camera's height: `low` of `low front`; nothing of `front`; `overhead`."""
    first, *others = words.split()
    return first if others or first in ("overhead", "bottom") else ""


def spans(heights: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The elevations, in degrees, at which a view's words say what of the height, by what they say."""
    found: dict[str, list[float]] = {}
    for elevation in ELEVATIONS:
        found.setdefault(height_of(direction_of(0.0, float(elevation), heights)), []).append(float(elevation))
    return {words: (min(there), max(there)) for words, there in found.items()}


def shows_camera(scene: world.Scene) -> bool:
    """Whether a picture of a solid has one camera only.

    A plain sphere shows nothing but where its light is: two cameras see the same, as much as 90° apart in height.
    """
    return (scene.shape, scene.pattern) != ("sphere", "plain")


def held_against(task: Task, azimuth: float, elevation: float, heights: Mapping[str, float]) -> dict[str, Any]:
    """A camera beside the words of the view that was asked for.

    Args:
        task: whose view it is.
        azimuth, elevation: of the camera, degrees.
        heights: as in `Plan`.

    Returns:
        `shown`, the words of the view that is there; `height`, whether they say the same of the height; `outside`,
        degrees between the elevation and those of the words, 0 among them; `side`, whether front, side or back is the
        same. The last three are None where a picture does not show its camera; `side` also from overhead.
    """
    scene = captions.scene_of(task.caption)
    shown, name = direction_of(azimuth, elevation, heights), task.view.split()[-1]
    found: dict[str, Any] = {"shown": shown, "height": None, "outside": None, "side": None}
    if scene is None or not shows_camera(scene):
        return found
    low, high = spans(heights)[height_of(task.view)]
    found["height"] = height_of(shown) == height_of(task.view)
    found["outside"] = 0.0 if found["height"] else max(low - elevation, elevation - high, 0.0)
    if name not in ("overhead", "bottom"):
        found["side"] = direction_of(azimuth, 0.0) == name
    return found
