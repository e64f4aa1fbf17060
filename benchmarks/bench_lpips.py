"""LPIPS of all pairs of pictures: a loop over pairs, and one product of features.

    make bench BENCH=lpips

The distance is lpips-like, by the embedded CLIP and VAE, on pictures of 128 px. `loop, pictures anew` is what lpips'
own script for all pairs does: both pictures of a pair go through the network. `ours` begins with the pictures as well.
`loop, features kept` and `ours, features kept` begin with features that are there: the loop subtracts, squares, weights
and averages the normalised levels of every pair. `extra_info` has what a distance differs by at most from the loop's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.metrics.lpips import Lpips, all_pairs

from .timing import measure

ANEW, KEPT, OURS_KEPT, OURS = "loop, pictures anew", "loop, features kept", "ours, features kept", "ours"
BACKENDS = (ANEW, KEPT, OURS_KEPT, OURS)
SIZES = {"small": 4, "500 pictures": 500}
NETWORKS = ("clip:primitives", "vae:primitives")
CHECKED = 24  # pictures whose pairs are compared with the loop's


@functools.cache
def network(name: str) -> Lpips:
    """The network, once."""
    return Lpips.load(name)


@functools.cache
def smooth_pictures(count: int) -> Tensor:
    """Pictures of smooth colours `[N, 3, 128, 128]` in [0, 1]."""
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1)


@functools.cache
def kept(name: str, count: int) -> Tensor:
    """Features of those pictures."""
    return network(name)(smooth_pictures(count))


def unit_levels(name: str, pictures: Tensor) -> list[Tensor]:
    """Levels of length 1 over the channels."""
    return [torch.nn.functional.normalize(x, dim=1) for x in network(name)._levels(pictures)]


def distances(name: str, levels: list[Tensor], i: int, j: int) -> float:
    """Of two pictures, as the definition has it."""
    weights = network(name)._levels.weights
    each = [((x[i] - x[j]) ** 2 * w[:, None, None]).sum(0).mean() for x, w in zip(levels, weights, strict=True)]
    return float(sum(each))


@functools.cache
@torch.no_grad()
def kept_levels(name: str, count: int) -> list[Tensor]:
    """Levels of those pictures."""
    parts = [unit_levels(name, x) for x in smooth_pictures(count).split(8)]
    return [torch.cat(x) for x in zip(*parts, strict=True)]


@torch.no_grad()
def loop(name: str, count: int, anew: bool) -> list[float]:
    """The distances of all pairs, one after another."""
    pairs = itertools.combinations(range(count), 2)
    if anew:
        pictures = smooth_pictures(count)
        return [distances(name, unit_levels(name, pictures[[i, j]]), 0, 1) for i, j in pairs]
    levels = kept_levels(name, count)
    return [distances(name, levels, i, j) for i, j in pairs]


def largest_error(name: str, count: int) -> float:
    """What a distance of ours differs by at most from the loop's."""
    expected = dict(zip(itertools.combinations(range(count), 2), loop(name, count, anew=False), strict=True))
    found = all_pairs(kept(name, count), alike=len(expected)).alike
    assert len(found) == len(expected)
    return max(abs(distance - expected[i, j]) for i, j, distance in found)


def prepare(backend: str, name: str, count: int) -> Callable[[], Any]:
    """One of the ways as a call."""
    pictures = smooth_pictures(count)
    if backend == OURS:
        return lambda: all_pairs(network(name)(pictures))
    if backend == OURS_KEPT:
        features = kept(name, count)
        return lambda: all_pairs(features)
    if backend == KEPT:
        kept_levels(name, count)
    return lambda: loop(name, count, backend == ANEW)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_lpips(benchmark: Any, device: str, backend: str, name: str, size: str) -> None:
    """All pairs, one way."""
    benchmark.group = f"lpips of all pairs, {name}, {size}, {device}"
    count = SIZES[size]
    benchmark.extra_info |= {"backend": backend, "network": name, "pictures": count, "pairs": count * (count - 1) // 2}
    if device != "cpu":
        pytest.skip("loop and product are compared on a CPU")
    if (backend, name, size) == (ANEW, "vae:primitives", "500 pictures"):
        pytest.skip("it takes more than half an hour: the CLIP's is timed")
    if backend in (OURS, OURS_KEPT):
        error = largest_error(name, min(count, CHECKED))
        assert error < 1e-5, f"not timed: a distance differs by {error} from the loop's"
        benchmark.extra_info["largest_error"] = error
    measure(benchmark, prepare(backend, name, count), device, rounds=3 if backend in (OURS, OURS_KEPT) else 1)
