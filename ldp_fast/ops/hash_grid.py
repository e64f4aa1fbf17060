"""`torch.ops.ldp_fast.hash_grid` and its backward."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .. import reference
from ._library import define, register

SCHEMA = "int[] offsets, int[] resolutions, float[] scales, float shift, bool hashed, bool smoothstep"  # of the layout


def _fake(
    positions: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    count: Tensor | None,
    offsets: Sequence[int],
    resolutions: Sequence[int],
    scales: Sequence[float],
    shift: float,
    hashed: bool,
    smoothstep: bool,
) -> Tensor:
    return table.new_empty(positions.shape[0], len(resolutions) * table.shape[1])


define(f"hash_grid(Tensor positions, Tensor table, Tensor? shadow, Tensor? count, {SCHEMA}) -> Tensor")
register("hash_grid", reference=reference.hash_grid, fake=_fake, native=True)
