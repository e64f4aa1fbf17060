"""Squared distances of all pairs of many long rows, and of two lists of rows one by one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError

# `[N, K]` (a tensor, an array, a file in memory), or N of `[K]`, one a picture.
Rows = Tensor | np.ndarray | Sequence[Tensor] | Sequence[np.ndarray]
MEMORY = 2**30
_BLOCK = 192  # rows of a product: a matrix with itself is computed in blocks, and those below the diagonal are not
_CHUNK = 2**22  # numbers that are multiplied at a time: more of them leave the cache
_STRIP = 256  # rows of distances that are looked at together
_NOTHING = 1e-12  # of ‖a‖² + ‖b‖²: what two sums of one thing differ by in float64 is below it


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Distances of all pairs.

    Attributes:
        pictures: N.
        pairs: N·(N − 1)/2.
        mean: over the pairs.
        std: standard deviation over the pairs (divided by their number). Pairs that share a picture depend on each
            other, so std/√pairs is not the error of the mean.
        alike: the pairs of the least distance, least first: both positions, the smaller first, and the distance.
    """

    pictures: int
    pairs: int
    mean: float
    std: float
    alike: tuple[tuple[int, int, float], ...]


def all_pairs(
    features: Rows,
    *,
    alike: int = 8,
    memory: int = MEMORY,
    device: str | torch.device = "cpu",
    progress: Callable[[float], None] | None = None,
) -> Pairs:
    """Squared distances of all pairs of rows: their mean and spread, and the least of them.

    Products are summed in float64, because a distance is a small difference of them: rows that are equal have the
    distance 0, and none is negative. Where `memory` allows for N² numbers, features are read once, some columns at a
    time; otherwise several times, in tiles.

    Args:
        features: as `Lpips` gives them, `[N, K]` float32 or float64, or N of `[K]`; N ≥ 2. May be files in memory.
        alike: how many of the least distances are returned.
        memory: bytes that are worked in, beside the features.
        device: that computes.
        progress: called with the share of the work that was just done; the shares sum up to 1.

    Raises:
        UsageError: fewer than two rows, or values that are not finite.
    """
    count, columns = len(features), len(features[0]) if len(features) else 0
    if count < 2:
        raise UsageError(f"lpips: expected at least 2 pictures, got {count}")
    side = min(count, max(1, math.isqrt(memory // 16)))
    width = max(1, min(columns, memory // 48 // side, max(1024, _CHUNK // side)))
    edges = [*range(0, count, side), count]
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    chunks = [slice(a, min(a + width, columns)) for a in range(0, columns, width)]
    # Those on the diagonal come first, which give every row's ‖a‖².
    tiles = [(s, s) for s in spans] + list(itertools.combinations(spans, 2))
    work = 1 / sum(_cost(*tile) for tile in tiles) / columns
    squares = torch.zeros(count, dtype=torch.float64, device=device)
    found = _Statistics(alike)
    for rows, others in tiles:
        products = torch.zeros(_length(rows), _length(others), dtype=torch.float64, device=device)
        for chunk in chunks:
            one = _part(features, rows, chunk).to(device, torch.float64)
            two = one if rows == others else _part(features, others, chunk).to(device, torch.float64)
            _add_products(products, one, two)
            if progress is not None:
                progress(work * _cost(rows, others) * _length(chunk))
        if rows == others:
            squares[rows] = products.diagonal()
        if not bool(squares[rows].isfinite().all()):
            raise UsageError("lpips: expected finite features, got NaN or infinity")
        for strip in range(0, len(products), _STRIP):
            found.look_at(products[strip : strip + _STRIP], squares, rows.start + strip, others)
    return found.result(count)


def pairwise(a: Rows, b: Rows) -> Tensor:
    """Squared distances of the rows of one list from those of another, one by one.

    Args:
        a: features `[N, K]`, or N of `[K]`.
        b: features `[N, K]`, or N of `[K]`.

    Returns:
        `[N]` float64 on the CPU; 0 for equal rows, never negative. No gradients.

    Raises:
        UsageError: lists of different length, or values that are not finite.
    """
    if len(a) != len(b):
        raise UsageError(f"lpips: expected as many pictures in both lists, got {len(a)} and {len(b)}")
    everything = slice(None)
    found = [
        float((_part(a, slice(i, i + 1), everything).double() - _part(b, slice(i, i + 1), everything)).square().sum())
        for i in range(len(a))
    ]
    if not all(map(math.isfinite, found)):
        raise UsageError("lpips: expected finite features, got NaN or infinity")
    return torch.tensor(found, dtype=torch.float64)


def _part(features: Any, rows: slice, columns: slice) -> Tensor:
    """Some columns of some rows."""
    if isinstance(features, Tensor):
        return features[rows, columns].detach()
    if isinstance(features, np.ndarray):
        return torch.from_numpy(np.array(features[rows, columns]))
    parts = (row[columns] for row in features[rows])
    return torch.stack([x.detach() if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in parts])


def _length(span: slice) -> int:
    return span.stop - span.start


def _cost(rows: slice, others: slice) -> float:
    """Of a tile, as a number of products."""
    return _length(rows) * _length(others) * (0.5 if rows == others else 1)


def _add_products(products: Tensor, one: Tensor, two: Tensor) -> None:
    """Adds one·twoᵀ; of a matrix with itself, what is below the diagonal's blocks stays as it is."""
    for i in range(0, len(one), _BLOCK):
        start = i if one is two else 0
        for j in range(start, len(two), _BLOCK):
            products[i : i + _BLOCK, j : j + _BLOCK].addmm_(one[i : i + _BLOCK], two[j : j + _BLOCK].T)


class _Statistics:
    """Mean, spread and least of distances that come in parts, each part with the positions of its pairs."""

    def __init__(self, alike: int):
        self._alike = alike
        self._least: list[tuple[float, int, int]] = []
        self._count, self._mean, self._squares = 0, 0.0, 0.0

    def look_at(self, products: Tensor, squares: Tensor, first: int, others: slice) -> None:
        """Takes in the pairs of a strip of rows, which begins with row `first`, and of the rows `others`."""
        sums = squares[first : first + len(products), None] + squares[others]
        distances = sums - 2 * products
        distances = torch.where(distances > _NOTHING * sums, distances, 0.0)
        rows = torch.arange(first, first + len(products), device=products.device)
        columns = torch.arange(others.start, others.stop, device=products.device)
        i, j = torch.nonzero(columns > rows[:, None], as_tuple=True)
        if len(i):
            self._add(distances[i, j], i + first, j + others.start)

    def _add(self, values: Tensor, rows: Tensor, columns: Tensor) -> None:
        # Chan, Golub and LeVeque's way to merge, which does not cancel.
        mean, count = float(values.mean()), self._count + len(values)
        change = mean - self._mean
        self._squares += float((values - mean).square().sum()) + change**2 * self._count * len(values) / count
        self._mean += change * len(values) / count
        self._count = count
        if not self._alike:
            return
        # What is equal to the last of the least may be many: which of them is kept depends on the positions alone.
        kept = torch.nonzero(values <= values.kthvalue(min(self._alike, len(values))).values)[:, 0]
        kept = kept[values[kept].sort(stable=True).indices[: self._alike]]
        new = zip(*(x[kept].tolist() for x in (values, rows, columns)), strict=True)
        self._least = sorted([*self._least, *new])[: self._alike]

    def result(self, pictures: int) -> Pairs:
        """What was found."""
        alike = tuple((i, j, distance) for distance, i, j in self._least)
        return Pairs(pictures, self._count, self._mean, math.sqrt(self._squares / self._count), alike)
