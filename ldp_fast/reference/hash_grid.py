"""Multiresolution hash grid encoding, in the convention of tiny-cuda-nn and instant-ngp, and its gradients.

y[s, l·F + f] = Σ_corners weight · table[offset_l + index_l(corner), f], with position·scale_l + shift as the place in
the grid of level l. csrc/hash_grid/layout.h says how levels are laid out.

The arguments that all functions share:

    positions    [S, 3] in [0, 1]; outside, the grid goes on periodically, in a way that depends on the level
    table        [entries, F] float32 or float64
    shadow       [entries, F] float16, read instead of the table; or None
    count        [1] int64, rows that are there, the rest being padding; None: all
    layout       the six numbers and lists of a `GridLayout`, one after another
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861)
WRAPPED, HASHED, TILED = 0, 1, 2  # csrc/hash_grid/layout.h has the same numbers
FAR = 2147483000.0  # cells further away have no number in 32 bits


class GridLayout(NamedTuple):
    """How the levels of a hash grid lie in its table: arguments that its operators share, in their schemas' order.

    Operators are told them one by one, so that `torch.compile` sees plain numbers; the rest hands them on as one.

    Attributes:
        offsets: L + 1 numbers, in entries.
        resolutions: L numbers, vertices along an axis.
        scales: L numbers, cells along an axis.
        shift: 0.5 (tiny-cuda-nn) or 0 (vertices on the ends, a voxel grid's).
        indexing: what becomes of a vertex's number in a level that has fewer entries than vertices: WRAPPED counts the
            axes until they have outrun the level, modulo its size (torch-ngp's tiled grids); HASHED hashes it; TILED
            counts every axis, in 32 bits, modulo its size (tiny-cuda-nn's tiled grids).
        smoothstep: 3t² − 2t³ instead of t.
    """

    offsets: Sequence[int]
    resolutions: Sequence[int]
    scales: Sequence[float]
    shift: float
    indexing: int
    smoothstep: bool


def live_rows(positions: Tensor, count: Tensor | None) -> Tensor:
    """Whether a row of the positions [S, 3] is there, not padding: [S, 1]."""
    rows = torch.arange(len(positions), device=positions.device)
    return (torch.ones_like(rows, dtype=torch.bool) if count is None else rows < count)[:, None]


def _index(vertex: Tensor, resolution: int, size: int, indexing: int) -> Tensor:
    """Entry within the level of vertices [S, 3] -> [S]; 32-bit unsigned arithmetic in int64."""
    vertex = vertex & 0xFFFFFFFF
    index, stride = vertex[:, 0], resolution
    for axis in (1, 2):
        if indexing == TILED or stride <= size:
            index = index + vertex[:, axis] * stride
            stride *= resolution
    if indexing == HASHED and size < stride:
        index = torch.zeros_like(vertex[:, 0])
        for axis, prime in enumerate(PRIMES):
            index = index ^ (vertex[:, axis] * prime)
    return (index & 0xFFFFFFFF) % size


@dataclass(frozen=True)
class _Corner:
    """One of the eight corners of every sample's cell.

    Attributes:
        index: entry in the table, [S].
        factors: along each axis the weight, [S, 3].
        sign: +1 along an axis where this is the upper vertex, else −1, [3].
        slope: first derivative by the position of an upper vertex's factor, [S, 3].
        curvature: its second derivative, [S, 3].
    """

    index: Tensor
    factors: Tensor
    sign: Tensor
    slope: Tensor
    curvature: Tensor

    @property
    def weight(self) -> Tensor:
        """Product of the factors, [S, 1]."""
        x, y, z = self.factors.split(1, -1)
        return x * y * z

    def gradient(self) -> Tensor:
        """The weight's derivatives by the position, [S, 3]."""
        g = self.sign * self.slope
        x, y, z = self.factors.unbind(-1)
        return torch.stack([g[:, 0] * y * z, x * g[:, 1] * z, x * y * g[:, 2]], -1)

    def hessian_times(self, v: Tensor) -> Tensor:
        """The weight's second derivatives by the position, times a vector: [S, 3] -> [S, 3]."""
        x, y, z = self.factors.unbind(-1)
        dx, dy, dz = (self.sign * self.slope).unbind(-1)
        ddx, ddy, ddz = (self.sign * self.curvature).unbind(-1)
        xy, xz, yz = dx * dy * z, dx * y * dz, x * dy * dz
        a, b, c = v.unbind(-1)
        return torch.stack(
            [
                ddx * y * z * a + xy * b + xz * c,
                xy * a + x * ddy * z * b + yz * c,
                xz * a + yz * b + x * y * ddz * c,
            ],
            -1,
        )


def _corners(positions: Tensor, layout: GridLayout) -> Iterator[tuple[int, _Corner]]:
    """All levels and the eight corners of each. No copies from the host: on CUDA they would wait for the stream."""
    offsets, resolutions, scales, shift, indexing, smoothstep = layout
    corners, axes = (torch.arange(n, device=positions.device) for n in (8, 3))
    uppers = corners[:, None] >> axes & 1
    for level, (resolution, scale) in enumerate(zip(resolutions, scales, strict=True)):
        at = positions * scale + shift
        whole = at.floor()
        if shift == 0.0 and resolution > 1:
            # On a grid with vertices on its ends the upper end belongs to the last cell.
            whole = torch.where(whole == scale, whole - 1, whole)
        t = at - whole
        lower = torch.where(whole.abs() < FAR, whole, torch.zeros_like(whole)).long()
        if smoothstep:
            weight, slope, curvature = t * t * (3 - 2 * t), 6 * t * (1 - t) * scale, (6 - 12 * t) * scale**2
        else:
            weight, slope, curvature = t, torch.full_like(t, scale), torch.zeros_like(t)
        for corner in range(8):
            upper = uppers[corner]
            sign = (2 * upper - 1).to(t.dtype)
            index = _index(lower + upper, resolution, offsets[level + 1] - offsets[level], indexing)
            factors = torch.where(upper.bool(), weight, 1 - weight)
            yield level, _Corner(offsets[level] + index, factors, sign, slope, curvature)


def _values(table: Tensor, shadow: Tensor | None) -> Tensor:
    return table if shadow is None else shadow.to(table.dtype)


def hash_grid(
    positions: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    count: Tensor | None,
    *layout: Any,
) -> Tensor:
    """Encodes positions; the arguments are the module's.

    Returns:
        [S, L·F] in the table's dtype, level-major; zero on padding. Gradients to positions and table, not to the
        shadow, which passes them on to the table.
    """
    values, grid = _values(table, shadow), GridLayout(*layout)
    out = [table.new_zeros(len(positions), table.shape[1]) for _ in grid.resolutions]
    for level, corner in _corners(positions, grid):
        out[level] = out[level] + corner.weight.to(table.dtype) * values[corner.index]
    return torch.where(live_rows(positions, count), torch.cat(out, dim=-1), 0)


def hash_grid_backward_table(
    grad: Tensor,
    positions: Tensor,
    count: Tensor | None,
    entries: int,
    features: int,
    *layout_and_deterministic: Any,
) -> Tensor:
    """Gradient by the table: Σ weight · grad over the samples that read an entry.

    Args:
        grad: [S, L·F], of the encoding. A sample whose gradient is zero at a level adds nothing there.
        positions: and the others, the module's.
        entries: of the table.
        features: F.
        layout_and_deterministic: the layout, and whether the sum must have the same bits in every run; only CUDA asks.

    Returns:
        [entries, F] in grad's dtype.
    """
    *layout, _ = layout_and_deterministic
    grads = torch.where(live_rows(positions, count), grad, 0).split(features, -1)
    out = grad.new_zeros(entries, features)
    for level, corner in _corners(positions, GridLayout(*layout)):
        g = grads[level]
        term = torch.where((g != 0).any(-1, keepdim=True), corner.weight.to(grad.dtype) * g, 0)
        out = out.index_add(0, corner.index, term)
    return out


def hash_grid_backward_positions(
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    count: Tensor | None,
    *layout: Any,
) -> Tensor:
    """Gradient by the positions: Σ ∇weight · <grad, entry> over levels and corners.

    Args:
        grad: [S, L·F], of the encoding.
        positions: and the others, the module's.

    Returns:
        [S, 3] in the positions' dtype, in units of [0, 1]; zero on padding.
    """
    values, grads = _values(table, shadow), grad.split(table.shape[1], -1)
    out = torch.zeros_like(positions)
    for level, corner in _corners(positions, GridLayout(*layout)):
        out = out + corner.gradient() * (grads[level] * values[corner.index]).sum(-1, keepdim=True)
    return torch.where(live_rows(positions, count), out, 0)


def hash_grid_backward_positions_backward(
    grad_out: Tensor,
    grad: Tensor,
    positions: Tensor,
    table: Tensor,
    shadow: Tensor | None,
    count: Tensor | None,
    *layout: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of <hash_grid_backward_positions(grad, positions, table), grad_out>: the double backward.

    Args:
        grad_out: [S, 3].
        grad: [S, L·F], of the encoding.
        positions: and the others, the module's.

    Returns:
        Gradients by grad [S, L·F], by positions [S, 3] and by table [entries, F]. Between cells the second derivative
        has a jump that is left out, as everywhere.
    """
    live, features = live_rows(positions, count), table.shape[1]
    grad_out = torch.where(live, grad_out, 0)
    values, grads = _values(table, shadow), torch.where(live, grad, 0).split(features, -1)
    by_grad = [torch.zeros_like(g) for g in grads]
    by_positions, by_table = torch.zeros_like(positions), torch.zeros_like(table)
    for level, corner in _corners(positions, GridLayout(*layout)):
        entry = values[corner.index]
        along = (corner.gradient() * grad_out).sum(-1, keepdim=True)
        by_grad[level] = by_grad[level] + along * entry
        by_table = by_table.index_add(0, corner.index, along * grads[level])
        by_positions = by_positions + corner.hessian_times(grad_out) * (grads[level] * entry).sum(-1, keepdim=True)
    return torch.where(live, torch.cat(by_grad, -1), 0), torch.where(live, by_positions, 0), by_table
