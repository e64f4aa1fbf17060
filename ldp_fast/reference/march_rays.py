"""Ray marching: from rays to packed samples in occupied cells, bit for bit as csrc/march_rays finds them.

A ray o + t·d enters the box at t_in and leaves it at t_out. Its lattice starts at t_0 = t_in + u·dt(t_in), with u = ½
or a random number of the ray's own (jitter), so that a sample stands for a step around it:

    fixed steps          t_i = t_0 + i·step
    cone-angled steps    t_{i+1} = t_i + dt(t_i),  dt(t) = clamp(t·cone_angle, step, max_step)

Lattice points before t_out whose cell is occupied are samples. Empty cells are skipped by whole steps: what is skipped
moves no sample that is kept. (instant-ngp and nerfacc do the same with another lattice.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ._random import random_uniform
from .occupancy import Grid

MAX_LATTICE = 1 << 20  # points of a lattice
SCAN_TILE = 4096  # rays that one block of the native prefix sum takes
CHUNK = 1 << 22  # lattice points held at once


def march_rays(
    origins: Tensor,
    directions: Tensor,
    bits: Tensor | None,
    seed: Tensor,
    box: Sequence[float],
    resolution: int,
    cascades: int,
    near: float,
    far: float,
    step: float,
    cone_angle: float,
    max_step: float,
    jitter: bool,
    capacity: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Finds the samples of rays.

    Rays that miss the box, do not move or are not finite have no samples. Where more samples are found than fit, the
    last ones are left out: the far samples of one ray, and all those of the rays after it; counts[1] says how many
    were needed. The same seed gives the same samples, on every device; nothing has a gradient.

    Args:
        origins: [R, 3].
        directions: [R, 3]. t is measured in their lengths: with unit directions near, far and steps are lengths.
        bits: [K·res³ / 8] uint8 from `occupancy_bits`, or None: everything is occupied.
        seed: [1] int64, on the device; read with jitter only.
        box: 6 numbers, the outermost box: lower corner, upper corner.
        resolution: res, cells along an axis of a cascade: a power of two from 4 to 1024.
        cascades: K, 1 to 8; cascade k is the box scaled about its centre by 2^(k−K+1). See `occupancy`.
        near: smallest t, at least 0.
        far: largest t, may be infinite.
        step: the fixed step, or the smallest one. Less than 2²⁰ of them fit into the box's diagonal; a ray's lattice
            ends after that many points.
        cone_angle: step over t; 0: fixed steps.
        max_step: the largest step; not read with fixed steps.
        jitter: whether every ray gets a random lattice.
        capacity: rows of the buffers, M.

    Returns:
        positions [M, 3] inside the box, distances [M] (t) and steps [M] (dt), zero in rows that no sample has;
        ray_offsets [R + 1] int64, samples of ray r are rows ray_offsets[r] to ray_offsets[r + 1], by increasing t;
        counts [2] int64: samples written, samples found.
    """
    grid = Grid.of(box, resolution, cascades, origins)
    lengths = (step, cone_angle, max_step)
    first, end = _lattice(origins, directions, seed, grid, near, far, lengths, jitter)
    rows, distances, steps = [], [], []
    for begin, t, dt in _points(first, end, lengths):
        keep = t < end[begin : begin + len(t), None]
        if bits is not None:
            rays = slice(begin, begin + len(t))
            cells = grid.cells(_positions(origins[rays, None], directions[rays, None], t[..., None], grid))
            keep = keep & (bits[cells >> 3].long() >> (cells & 7) & 1).bool()
        rows.append(keep.nonzero()[:, 0] + begin)
        distances.append(t[keep])
        steps.append(dt[keep])
    found = torch.cat(rows) if rows else torch.zeros(0, dtype=torch.int64, device=origins.device)
    required = len(found)
    written = min(required, capacity)
    row = found[:written]

    offsets = torch.zeros(len(origins) + 1, dtype=torch.int64, device=origins.device)
    offsets[1:] = torch.bincount(found, minlength=len(origins)).cumsum(0).clamp(max=capacity)
    buffer_t, buffer_dt = origins.new_zeros(capacity), origins.new_zeros(capacity)
    positions = origins.new_zeros(capacity, 3)
    if required:
        buffer_t[:written] = torch.cat(distances)[:written]
        buffer_dt[:written] = torch.cat(steps)[:written]
        positions[:written] = _positions(origins[row], directions[row], buffer_t[:written, None], grid)
    counts = torch.tensor([written, required], dtype=torch.int64, device=origins.device)
    return positions, buffer_t, buffer_dt, offsets, counts


def _step(t: Tensor, lengths: tuple[float, float, float]) -> Tensor:
    step, cone_angle, max_step = (t.new_tensor(value) for value in lengths)
    return step.expand_as(t) if lengths[1] == 0 else torch.minimum(torch.maximum(t * cone_angle, step), max_step)


def _lattice(
    origins: Tensor,
    directions: Tensor,
    seed: Tensor,
    grid: Grid,
    near: float,
    far: float,
    lengths: tuple[float, float, float],
    jitter: bool,
) -> tuple[Tensor, Tensor]:
    """First point of every ray's lattice, and where the ray leaves: [R] each; −1 for a ray without samples."""
    still = directions == 0
    a, b = (grid.lower - origins) / directions, (grid.upper - origins) / directions
    enter = torch.where(still, -torch.inf, torch.minimum(a, b)).amax(-1)
    leave = torch.where(still, torch.inf, torch.maximum(a, b)).amin(-1)
    enter, leave = enter.clamp(min=near), torch.minimum(leave, leave.new_tensor(far))
    inside = (origins >= grid.lower) & (origins <= grid.upper)
    hit = (inside | ~still).all(-1) & ~still.all(-1)
    hit = hit & origins.isfinite().all(-1) & directions.isfinite().all(-1) & (enter < leave)
    share = enter.new_full((len(origins),), 0.5)
    if jitter:
        share = random_uniform(seed, torch.arange(len(origins), device=origins.device)).to(enter.dtype)
    return enter + share * _step(enter, lengths), torch.where(hit, leave, -1.0)


def _points(first: Tensor, end: Tensor, lengths: tuple[float, float, float]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields the first ray of a chunk of rays, and their lattices' t and dt [rays, points]; some lie beyond the end."""
    rays = (first < end).nonzero()[:, 0]
    if len(rays) == 0:
        return
    most = int(((end - first)[rays] / lengths[0]).max().clamp(max=MAX_LATTICE)) + 2
    chunk = max(1, CHUNK // most)
    for begin in range(int(rays[0]), int(rays[-1]) + 1, chunk):
        t0 = first[begin : begin + chunk]
        alive = end[begin : begin + chunk]
        if lengths[1] == 0:
            i = torch.arange(min(most, MAX_LATTICE), device=first.device)
            t = t0[:, None] + i.to(first.dtype) * first.new_tensor(lengths[0])
            yield begin, t, _step(t, lengths)
            continue
        points: list[Tensor] = []
        steps: list[Tensor] = []
        t = t0
        while len(points) < MAX_LATTICE and bool((t < alive).any()):
            points.append(t)
            steps.append(_step(t, lengths))
            t = t + steps[-1]
        if points:
            yield begin, torch.stack(points, 1), torch.stack(steps, 1)


def _positions(origins: Tensor, directions: Tensor, t: Tensor, grid: Grid) -> Tensor:
    """Points on rays; rounding may put one at the edge just outside of the box, and is undone."""
    return torch.minimum(torch.maximum(origins + t * directions, grid.lower), grid.upper)
