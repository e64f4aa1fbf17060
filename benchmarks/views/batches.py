"""One batch: its pictures are made and kept, and then measured; each file is there as a whole or not."""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ldp_fast.apps.text_to_3d.cameras import direction_of
from ldp_fast.runs import files, image_files
from ldp_fast.runs.seeds import mixed_generator
from ldp_fast.zoo import captions, world
from ldp_fast.zoo.evaluate import sample_batch

from ..terms.measures import measure, thresholds
from .plan import Plan, Task, held_against

FORM = 1  # of a record; those of another are measured again
SIZE = 32  # pictures
COLUMNS = 8  # of the sheet in which a batch is kept
SEED = 40_000  # of noise and cameras, with the plan's; far from the seeds of training


def camera(plan: Plan, task: Task) -> world.View:
    """One of training's cameras, at random among those that have the view's words."""
    rng = np.random.default_rng([SEED, plan.seed, task.number])
    while True:
        view = world.sample_view(rng)
        if direction_of(math.degrees(view.azimuth), math.degrees(view.elevation), plan.heights) == task.view:
            return view


def render(plan: Plan, task: Task) -> np.ndarray:
    """The truth of a picture, `[128, 128, 3]` uint8."""
    scene = captions.scene_of(task.caption)
    assert scene is not None
    picture: np.ndarray = world.render(scene, camera(plan, task))
    return picture


def made(plan: Plan, tasks: Sequence[Task], pipe: Any) -> np.ndarray:
    """Pictures `[B, H, H, 3]` uint8 of a batch; what a picture shows does not depend on the others.

    Args:
        plan: steps, guidance, seed.
        tasks: of the batch.
        pipe: diffusers' pipeline; not asked for true renders.
    """
    if plan.source == "truth":
        return np.stack([render(plan, task) for task in tasks])
    generators = [mixed_generator(SEED, plan.seed, task.number) for task in tasks]
    prompts = [task.prompt for task in tasks]
    images = sample_batch(pipe, prompts, steps=plan.steps, guidance_scale=plan.guidance, generator=generators)
    pixels: np.ndarray = image_files.to_pixels(images)
    return pixels


class Batches:
    """The batches of a plan, which of them there are, and how long the others take.

    Args:
        folder: of their files.
        plan: what they are of.
        pipe: makes diffusers' pipeline, when a picture is to be sampled.
        size: pictures of a batch.
    """

    def __init__(self, folder: pathlib.Path, plan: Plan, pipe: Callable[[], Any], size: int = SIZE):
        self.folder, self.plan, self._load, self._pipe = folder, plan, pipe, None
        tasks = plan.tasks()
        self.batches = [tasks[i : i + size] for i in range(0, len(tasks), size)]

    def left(self) -> list[int]:
        """Numbers of those that are not there."""
        return [i for i in range(len(self.batches)) if self._record(i) is None]

    def expected(self) -> float | None:
        """Seconds that the others take, by those that are there; None if there are none."""
        there = [record for i in range(len(self.batches)) if (record := self._record(i)) is not None]
        if not there:
            return None
        pace = sum(sum(record["seconds"]) for record in there) / sum(len(record["images"]) for record in there)
        return pace * sum(len(self.batches[i]) for i in self.left())

    def make(self, number: int, stop: Callable[[], bool] = lambda: False) -> dict[str, Any] | None:
        """Makes a batch, or measures again what was made; its record. None: it was stopped."""
        tasks, sheet = self.batches[number], self._file(number, "png")
        started = time.perf_counter()
        if not sheet.exists():
            if self._pipe is None and self.plan.source == "samples":
                self._pipe = self._load()
                started = time.perf_counter()
            self._keep(sheet, made(self.plan, tasks, self._pipe))
        pictures = self.pictures(number)
        begun = time.perf_counter()
        rows, renders = [], []
        for task, picture in zip(tasks, pictures, strict=True):
            if stop():
                return None
            row, nearest = measure(picture / 255.0, task.caption)
            rows.append(self._row(task, row))
            renders.append((nearest * 255 + 0.5).clip(0, 255).astype(np.uint8))
        self._keep(self._file(number, "nearest.png"), np.stack(renders))
        seconds = [round(begun - started, 2), round(time.perf_counter() - begun, 2)]
        record = {"form": FORM, "thresholds": thresholds(), "seconds": seconds, "images": rows}
        files.write_json(self._file(number, "json"), record)
        return record

    def images(self) -> list[dict[str, Any]]:
        """Rows of what there is."""
        records = [self._record(i) for i in range(len(self.batches))]
        return [row for record in records if record is not None for row in record["images"]]

    def pictures(self, number: int, of: str = "png") -> np.ndarray:
        """Pictures `[B, H, H, 3]` uint8 of a batch; of `nearest.png` their nearest true renders."""
        whole = image_files.to_pixels(image_files.read_images([self._file(number, of)]))[0]
        count = len(self.batches[number])
        columns = min(COLUMNS, count)
        side = whole.shape[1] // columns
        cut = whole.reshape(-1, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
        return cut[:count]

    def pair(self, number: int) -> list[torch.Tensor]:
        """A picture of all, by its number, and its nearest true render, `[3, H, H]` in [0, 1]."""
        size = len(self.batches[0])
        both = [self.pictures(number // size, of)[number % size] for of in ("png", "nearest.png")]
        return [torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in both]

    def _row(self, task: Task, row: dict[str, Any]) -> dict[str, Any]:
        seen = row["view"]
        asked = {"number": task.number, "group": task.group, "caption": task.caption, "asked": task.view}
        beside = held_against(task, seen["azimuth"], seen["elevation"], self.plan.heights)
        if self.plan.source == "truth" and beside["height"] is not None:
            true = math.degrees(camera(self.plan, task).elevation)
            beside["elevation_error"] = abs(seen["elevation"] - true)
        return {**asked, **beside, **row}

    def _keep(self, file: pathlib.Path, pictures: np.ndarray) -> None:
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        image_files.save_png(file, image_files.contact_sheet(images, min(COLUMNS, len(images))))

    def _file(self, number: int, end: str) -> pathlib.Path:
        return self.folder / f"{number:04d}.{end}"

    def _record(self, number: int) -> dict[str, Any] | None:
        """Of a batch, if it is there and was made by these measures."""
        file = self._file(number, "json")
        if not file.exists():
            return None
        held: dict[str, Any] = files.read_json(file)
        return held if held.get("form") == FORM and held.get("thresholds") == thresholds() else None
