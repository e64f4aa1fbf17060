"""The occupancy grid's operators: a full update of all cells, and a partial one, against the reference in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from ldp_fast import reference
from tests.support import samples

from .timing import measure

SIZES = {"small": 32, "instant_ngp": 128}  # cells along an axis


def calls(size: str, part: str, device: str) -> dict[str, tuple[Any, ...]]:
    """Arguments of the operators in one update, by name."""
    average = samples.occupancy.shell_average(SIZES[size], device=device)
    quarter = 0 if part == "full" else average.numel() // 4
    threshold, seed = torch.tensor([0.01], device=device), torch.ones(1, dtype=torch.int64, device=device)
    draw = (average, threshold, seed, quarter, quarter, samples.occupancy.BOX, SIZES[size], 1)
    cells, positions = torch.ops.ldp_fast.occupancy_samples(*draw)
    update = (average, cells, positions.norm(dim=-1), 0.95)
    return {"occupancy_samples": draw, "occupancy_update": update, "occupancy_bits": (average, 0.01)}


@pytest.mark.parametrize("side", ["reference", "ours"])
@pytest.mark.parametrize("part", ["full", "partial"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["occupancy_samples", "occupancy_update", "occupancy_bits"])
def test_occupancy(benchmark: Any, device: str, name: str, size: str, part: str, side: str) -> None:
    if name == "occupancy_bits" and part == "partial":
        pytest.skip("all cells are packed after every update")
    arguments = calls(size, part, device)[name]
    function: Callable[..., Any] = getattr(reference if side == "reference" else torch.ops.ldp_fast, name)
    benchmark.group = f"{name} {size} {part} {device}"
    measure(benchmark, partial(function, *arguments), device, graph=side == "ours")
