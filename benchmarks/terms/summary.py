"""Records of cells as numbers with intervals: shares, means, differences picture by picture, steps to 90 %."""

from __future__ import annotations

import collections
import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldp_fast.metrics.truth import wilson_interval

from . import runs
from .measures import CRITERIA
from .plan import Cell, Plan

# Those whose mean is geometric: ratios.
RATIOS = ("laplacian", "laplacian_half")
MEASURES = ("perceptual", *RATIOS, "iou", "colour_error", "stray", "ground", "agreement", "saturation", "clipped")
Z = 1.959964
Image = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean, and half the width of its interval of 95 % (normal); of ratios both are of the logarithm."""

    value: float
    half: float
    ratio: bool = False

    @property
    def low(self) -> float:
        return self.value / self.half if self.ratio else self.value - self.half

    @property
    def high(self) -> float:
        return self.value * self.half if self.ratio else self.value + self.half


def mean_of(values: Sequence[float], ratio: bool = False) -> Mean | None:
    """Of measures of pictures; None of none."""
    x = np.array(values, dtype=np.float64)
    if not len(x):
        return None
    x = np.log(np.maximum(x, 1e-9)) if ratio else x
    half = Z * float(x.std(ddof=1)) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return Mean(math.exp(x.mean()), math.exp(half), True) if ratio else Mean(float(x.mean()), half)


def share_of(met: Sequence[bool]) -> dict[str, Any]:
    """How many are so, of how many, and the share with Wilson's interval."""
    right, count = sum(met), len(met)
    return {
        "images": count,
        "right": right,
        "share": right / max(1, count),
        "interval": wilson_interval(right, count),
    }


def shares(images: Sequence[Image]) -> dict[str, Any]:
    """Share of right pictures with Wilson's interval, and how many fail what."""
    return {
        **share_of([bool(image["right"]) for image in images]),
        "failing": {name: sum(name in image["failing"] for image in images) for name in CRITERIA},
    }


def of_images(images: Sequence[Image]) -> dict[str, Any]:
    """What `shares` has, and means of the measures."""
    result = shares(images)
    for name in (*MEASURES, "deviation"):
        values = [image[name] for image in images if image.get(name) is not None]
        result[name] = mean_of(values, name in RATIOS)
    excess = [image["saturation"] - image["saturation_true"] for image in images]
    return {**result, "saturation_excess": mean_of(excess)}


def crossing(steps: Sequence[int], values: Sequence[float], target: float) -> float | None:
    """The step at which a curve first reaches a target, straight between its points; None if it does not.

    Args:
        steps: in order.
        values: at these; the target lies in the direction of the last one from the first.
        target: to be reached.
    """
    up = values[-1] >= values[0]
    for i, value in enumerate(values):
        if (value >= target) if up else (value <= target):
            if i == 0 or value == values[i - 1]:
                return float(steps[i])
            part = (target - values[i - 1]) / (value - values[i - 1])
            return steps[i - 1] + part * (steps[i] - steps[i - 1])
    return None


@dataclasses.dataclass(frozen=True)
class Result:
    """A cell's records, of all seeds.

    Attributes:
        cell: its settings; the seed is that of the first.
        steps: of the checkpoints.
        images: at each checkpoint, seed after seed.
        seconds: of a step, the shortest of the seeds' medians.
        diverged: seeds that left what a decoder takes.
        files: names without ending, one a seed.
        seeds: whose images these are, as many of each.
    """

    cell: Cell
    steps: tuple[int, ...]
    images: tuple[tuple[Image, ...], ...]
    seconds: float
    diverged: int
    files: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)

    def pictures(self) -> dict[tuple[int, int], Image]:
        """Those at the end, by their seed and their place among the prompts."""
        each = len(self.images[-1]) // len(self.seeds)
        return {(self.seeds[i // each], i % each): image for i, image in enumerate(self.images[-1])}

    @property
    def last(self) -> dict[str, Any]:
        """At the end."""
        return of_images(self.images[-1])

    def curve(self, value: Callable[[dict[str, Any]], float]) -> list[float]:
        """A number of each checkpoint's summary."""
        return [value(of_images(images)) for images in self.images]

    def to_ninety(self, start: float | None) -> dict[str, float | None]:
        """Steps after which 90 % is there: of the last share of right pictures, of the perceptual distance's fall.

        Args:
            start: perceptual distance of the initial latents, decoded.
        """
        shares = self.curve(lambda found: found["share"])
        right = crossing((0, *self.steps), [0.0, *shares], 0.9 * shares[-1]) if shares[-1] > 0 else None
        near = None
        if start is not None:
            distances = self.curve(lambda found: found["perceptual"].value)
            near = crossing((0, *self.steps), [start, *distances], start + 0.9 * (distances[-1] - start))
        return {"right": right, "perceptual": near}


def read(folder: pathlib.Path, plan: Plan, wanted: Sequence[Cell], judge: str) -> dict[Cell, Result]:
    """What is there of some cells, by the cells with seed 0; not what other measures or another judge made."""
    groups: dict[Cell, list[tuple[Cell, dict[str, Any]]]] = collections.defaultdict(list)
    for cell in wanted:
        record = runs.record_of(folder / f"{cell.name}.json", judge)
        if record is not None:
            groups[dataclasses.replace(cell, seed=0)].append((cell, record))
    found = {}
    for key, records in groups.items():
        images = tuple(
            tuple(image for _, record in records for image in record["checkpoints"][i]["images"])
            for i in range(len(plan.checkpoints))
        )
        found[key] = Result(
            cell=records[0][0],
            steps=plan.checkpoints,
            images=images,
            seconds=min(record["seconds"] for _, record in records),
            diverged=sum(record["diverged"] is not None for _, record in records),
            files=tuple(cell.name for cell, _ in records),
            seeds=tuple(cell.seed for cell, _ in records),
        )
    return found


def against(result: Result, other: Result) -> dict[str, Any]:
    """A cell beside another, picture by picture (same prompt, same initial latents, same noise), of seeds of both.

    Returns:
        `gained` and `lost`: pictures that are right here and not there, and the other way round; of each measure the
        mean of the differences (of ratios: of the quotients).
    """
    mine, others = result.pictures(), other.pictures()
    pairs = [(image, others[place]) for place, image in mine.items() if place in others]
    found: dict[str, Any] = {
        "gained": sum(a["right"] and not b["right"] for a, b in pairs),
        "lost": sum(b["right"] and not a["right"] for a, b in pairs),
    }
    for name in MEASURES:
        both = [(a[name], b[name]) for a, b in pairs if a[name] is not None and b[name] is not None]
        ratio = name in RATIOS
        found[name] = mean_of([a / max(b, 1e-9) if ratio else a - b for a, b in both], ratio)
    return found
