"""The occupancy grid: where its cells are, which of them the field is asked about, and what becomes of the answers.

K cascades of res³ cells, each in Morton order with x in the lowest bit: cell = k·res³ + morton(x, y, z). Cascade k is
the outermost box scaled about its centre by 2^(k−K+1). A point is first given a place among the finest cells
(res·2^(K−1) along an axis); from there on everything is whole numbers, so that the cascades nest exactly. The march
asks the finest cascade that contains a point: a cell of cascade k that lies inside cascade k−1 is never asked, but it
is kept up to date like any other, so that a reader with another rule is not misled.

A cell holds an exponential moving average of densities, and a bit that says whether it is above a threshold; the
scheme is instant-ngp's (Müller et al. 2022, appendix E.2): decay, maximum, threshold min(0.01, mean).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._random import random_bits, random_uniform, shift_right

TRIES = 10  # draws in search of an occupied cell
NUMBERS = 16  # random numbers of a sample: the draws, then three for the place inside the cell
FIRST_NUMBER = 1 << 40  # the march has those below
LARGEST_DENSITY = 1e10
MEAN_TILE = 8192  # cells of one partial sum of the native operator


@dataclass(frozen=True)
class Grid:
    """Where the cells of an occupancy grid are; numbers are rounded as in csrc/occupancy/grid.h.

    Attributes:
        lower: [3], corner of the outermost box.
        upper: [3], the opposite one.
        cells_per_unit: [3], finest cells in a unit of length.
        cell_size: [3], length of the finest cell.
        resolution: res, cells along an axis of one cascade: a power of two from 4 to 1024.
        cascades: K.
    """

    lower: Tensor
    upper: Tensor
    cells_per_unit: Tensor
    cell_size: Tensor
    resolution: int
    cascades: int

    @classmethod
    def of(cls, box: Sequence[float], resolution: int, cascades: int, like: Tensor) -> Grid:
        """Makes a grid in the dtype and on the device of a tensor."""
        finest = float(resolution << (cascades - 1))
        sides = [box[d + 3] - box[d] for d in range(3)]
        return cls(
            like.new_tensor(box[:3]),
            like.new_tensor(box[3:]),
            like.new_tensor([finest / side for side in sides]),
            like.new_tensor([side / finest for side in sides]),
            resolution,
            cascades,
        )

    def cells(self, positions: Tensor) -> Tensor:
        """Returns the cell of the finest cascade around each position: [..., 3] -> [...] int64."""
        finest, half = self.resolution << (self.cascades - 1), self.resolution >> 1
        centre = finest >> 1
        at = (positions - self.lower) * self.cells_per_unit
        place = at.nan_to_num(0.0).clamp(0, finest - 1).long()
        away = torch.where(place >= centre, place - centre, centre - 1 - place).amax(-1)
        cascade = torch.zeros_like(away)
        for k in range(self.cascades - 1):
            cascade = cascade + (away >= half << k)
        start = centre - (half << cascade)
        return cascade * self.resolution**3 + morton((place - start[..., None]) >> cascade[..., None])

    def points(self, cells: Tensor, inside: Tensor) -> Tensor:
        """Returns a point of each cell: [n] int64 and places in [0, 1] of the cell [n, 3] -> [n, 3]."""
        cascade = cells // self.resolution**3
        half, centre = self.resolution >> 1, self.resolution << self.cascades >> 2
        index = morton_inverse(cells % self.resolution**3)
        start = (centre - (half << cascade))[:, None] + (index << cascade[:, None])
        at = start.to(inside.dtype) + inside * (1 << cascade).to(inside.dtype)[:, None]
        return torch.minimum(self.lower + at * self.cell_size, self.upper)


def morton(index: Tensor) -> Tensor:
    """Interleaves the bits of three numbers below 1024, x lowest: [..., 3] int64 -> [...] int64."""
    code = torch.zeros_like(index[..., 0])
    for bit in range(10):
        for axis in range(3):
            code = code | (index[..., axis] >> bit & 1) << (3 * bit + axis)
    return code


def morton_inverse(code: Tensor) -> Tensor:
    """Undoes `morton`: [...] int64 -> [..., 3] int64."""
    axes = []
    for axis in range(3):
        index = torch.zeros_like(code)
        for bit in range(10):
            index = index | (code >> (3 * bit + axis) & 1) << bit
        axes.append(index)
    return torch.stack(axes, dim=-1)


def occupancy_samples(
    ema: Tensor,
    threshold: Tensor,
    seed: Tensor,
    uniform: int,
    occupied: int,
    box: Sequence[float],
    resolution: int,
    cascades: int,
) -> tuple[Tensor, Tensor]:
    """Draws cells and a random point in each of them.

    With `uniform` and `occupied` both 0 every cell comes once, in order: a full update. Otherwise `uniform` cells are
    drawn from all, then `occupied` ones from those whose average is above the threshold: up to ten draws each, and the
    last one stays if none was. The same seed gives the same samples, on every device.

    Args:
        ema: [K·res³] float32, averages of the densities.
        threshold: [1] float32, on the device.
        seed: [1] int64, on the device: change it from update to update.
        uniform: cells drawn from all.
        occupied: cells drawn from occupied ones.
        box: 6 numbers, the outermost box: lower corner, upper corner.
        resolution: res, a power of two from 4 to 1024.
        cascades: K, 1 to 8.

    Returns:
        cells [n] int64 and positions [n, 3] float32, in the cell up to rounding; n = uniform + occupied, or all cells.
    """
    grid = Grid.of(box, resolution, cascades, ema)
    every = uniform == 0 and occupied == 0
    size = cascades * resolution**3 if every else uniform + occupied
    i = torch.arange(size, device=ema.device)
    number = FIRST_NUMBER + i * NUMBERS
    cells = i
    if not every:
        cells = _draw(random_bits(seed, number), resolution, cascades)
        for j in range(1, TRIES):
            again = (i >= uniform) & ~(ema[cells] > threshold)
            cells = torch.where(again, _draw(random_bits(seed, number + j), resolution, cascades), cells)
    axes = torch.arange(3, device=ema.device)
    inside = random_uniform(seed, number[:, None] + TRIES + axes).to(ema.dtype)
    return cells.clone(), grid.points(cells, inside)


def _draw(bits: Tensor, resolution: int, cascades: int) -> Tensor:
    """A cell out of all: the upper bits give the place in the cascade, the lower 32 the cascade."""
    width = 3 * (resolution.bit_length() - 1)
    cascade = ((bits & 0xFFFFFFFF) * cascades) >> 32
    return (cascade << width) | shift_right(bits, 64 - width)


def occupancy_update(ema: Tensor, cells: Tensor, densities: Tensor, decay: float) -> Tensor:
    """Returns averages that have seen new densities: max(decay·ema, every density of the cell).

    A cell that was not sampled keeps its average; one that was sampled twice decays once. Densities count from 0 to
    10¹⁰, and one that is not a number counts as 10¹⁰: a cell nobody knows anything about is not skipped, and decay
    forgets it again. Deterministic: maxima do not depend on their order.

    Args:
        ema: [N] float32, not negative.
        cells: [n] int64, from `occupancy_samples`. An index that is not a cell's is an error on a CPU and is left
            out on CUDA, where nothing may wait for the device.
        densities: [n] float32.
        decay: factor on the old average, 0 to 1.

    Returns:
        [N] float32, a new tensor.

    Raises:
        RuntimeError: an index that is not a cell's (on a CPU).
    """
    if ema.device.type == "cpu" and cells.numel() and not bool(((cells >= 0) & (cells < len(ema))).all()):
        wrong = cells[(cells < 0) | (cells >= len(ema))][0].item()
        raise RuntimeError(f"occupancy_update: cells: expected indices from 0 to {len(ema) - 1}, got {wrong}")
    new = torch.where(densities < LARGEST_DENSITY, densities, LARGEST_DENSITY).clamp(min=0)
    decayed = ema.new_tensor(decay) * ema[cells]
    updated = ema.clone()
    updated[cells] = torch.where(decayed > 0, decayed, 0)
    return updated.scatter_reduce(0, cells, new, "amax")


def occupancy_bits(ema: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Packs which cells are occupied: those that are above 0 and at least min(threshold, mean of the averages).

    At least, because a uniform field is its own mean. An average that is not a number is above everything; if the mean
    is not a number, the threshold is used. The mean is summed in float64, natively in a fixed order.

    Args:
        ema: [N] float32, N a multiple of 8.
        threshold: density from which on a cell is occupied.

    Returns:
        bits [N / 8] uint8, cell i in bit i % 8 of byte i // 8, and the threshold that was used [1] float32.
    """
    mean = ema.double().mean().to(ema.dtype)
    limit = ema.new_tensor(threshold)
    used = torch.where(mean < limit, mean, limit).reshape(1)
    occupied = ~((ema < used) | (ema <= 0))
    places = torch.arange(8, device=ema.device)
    return (occupied.view(-1, 8).long() << places).sum(-1).to(torch.uint8), used
