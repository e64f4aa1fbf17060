"""Multiresolution hash grid encoding, in the convention of tiny-cuda-nn and instant-ngp.

y[s, l·F + f] = Σ_corners weight · table[offset_l + index_l(corner), f], with position·scale_l + shift as the place in
the grid of level l. csrc/hash_grid/layout.h says how levels are laid out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861)


def _live(size: int, count: Tensor | None, like: Tensor) -> Tensor:
    """1 for rows that are there, 0 for padding: [S, 1]."""
    rows = torch.arange(size, device=like.device)
    live = torch.ones_like(rows) if count is None else rows < count
    return live.to(like.dtype)[:, None]


def _cell(positions: Tensor, scale: float, shift: float, smoothstep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Lower vertex, weight of the upper one, and its slope by the position in units of [0, 1]; each [S, 3]."""
    at = positions * scale + shift
    whole = at.floor()
    if shift == 0.0:
        whole = torch.where(whole == scale, whole - 1, whole)
    t = at - whole
    vertex = whole.nan_to_num(0.0).long()
    if smoothstep:
        return vertex, t * t * (3 - 2 * t), 6 * t * (1 - t) * scale
    return vertex, t, torch.full_like(t, scale)


def _index(vertex: Tensor, resolution: int, size: int, hashed: bool) -> Tensor:
    """Entry within the level of vertices [S, 3] -> [S]; 32-bit unsigned arithmetic in int64."""
    vertex = vertex & 0xFFFFFFFF
    index, stride = vertex[:, 0], resolution
    for axis in (1, 2):
        if stride <= size:
            index = index + vertex[:, axis] * stride
            stride *= resolution
    if hashed and size < stride:
        index = torch.zeros_like(vertex[:, 0])
        for axis, prime in enumerate(PRIMES):
            index = index ^ (vertex[:, axis] * prime)
    return (index & 0xFFFFFFFF) % size


def hash_grid(
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
    """Encodes positions.

    Args:
        positions: [S, 3] in [0, 1].
        table: [entries, F].
        shadow: [entries, F] float16, read instead of the table; or None.
        count: [1] int64, rows that are there; the rest is padding and becomes zero. None: all.
        offsets: L + 1 numbers, in entries.
        resolutions: L numbers, vertices along an axis.
        scales: L numbers, cells along an axis.
        shift: 0.5 (tiny-cuda-nn) or 0 (vertices on the ends).
        hashed: whether a level that does not fit is hashed, else wrapped.
        smoothstep: 3t² − 2t³ instead of t.

    Returns:
        [S, L·F] in the table's dtype; level-major.
    """
    values = (table if shadow is None else shadow.to(table.dtype)).to(positions.dtype)
    out = []
    for level, (resolution, scale) in enumerate(zip(resolutions, scales, strict=True)):
        vertex, weight, _ = _cell(positions, scale, shift, smoothstep)
        total = positions.new_zeros(len(positions), table.shape[1])
        for corner in range(8):
            upper = torch.tensor([corner >> axis & 1 for axis in range(3)], device=positions.device)
            factor = torch.where(upper.bool(), weight, 1 - weight).prod(-1, keepdim=True)
            index = _index(vertex + upper, resolution, offsets[level + 1] - offsets[level], hashed)
            total = total + factor * values[offsets[level] + index]
        out.append(total)
    live = _live(len(positions), count, positions)
    return torch.where(live > 0, torch.cat(out, dim=-1), 0).to(table.dtype)
