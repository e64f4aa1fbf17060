"""The moments of group norm on Triton, channels-last, and how sums over pixels are cut into programs.

Reads x once (2 bytes an element of half precision) and writes two numbers a group. Two launches.

A program owns 64 channels of a chunk of pixels. Its tile is [TURNS, ROWS, 64] with one 128-bit access a thread in
[ROWS, 64], so that a sum over the turns stays within a thread. The moments of a tile are made in two passes over
registers (the mean, then the squares of deviations: E[x²] − E[x]² would cancel), and joined tile by tile with Chan's
formula. Every program writes the sums of its channels to a place of its own; a second, small launch joins channels and
chunks to groups in a fixed order: no atomics, and no assumption about the channels of a group. What it reads is a
hundredth of x.

The number of chunks follows from the shape alone: enough programs for small images, about `PROGRAMS` for large ones.
64 channels are 128 bytes in half precision: whole cache lines, and four times fewer sums than with all of 256 channels
in a program of as many elements.

C and G are compile-time numbers: a decoder has three or four of them, and divisions by them become multiplications.

B: samples. P: pixels, H·W. C: channels. G: groups.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._host import FUSED

TILE_ELEMENTS = 8192  # elements of a tile
PROGRAMS = 2048  # from which on a program takes several tiles
NUM_WARPS = 4


@triton.jit
def locate(pixels, tiles, chunks, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """Sample, chunk, first channel, first element and pixels of a program of the sums."""
    program = tl.program_id(0)
    blocks: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    chunk = program // blocks % chunks
    sample = (program // (blocks * chunks)).to(tl.int64)
    first = chunk * tiles * TILE
    start = (sample * pixels + first) * CHANNELS
    return sample, chunk, program % blocks * WIDTH, start, tl.minimum(tiles * TILE, pixels - first)


@triton.jit(do_not_specialize=["pixels", "tiles", "chunks"])
def group_norm_moments_kernel(
    x,  # [B, P, C]
    means,  # [B, chunks, C] float32, of a chunk's pixels
    squares,  # [B, chunks, C] float32, sums of squared deviations from it
    pixels,  # P
    tiles,  # of a chunk
    chunks,  # of a sample
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,  # channels of a program
    ROWS: tl.constexpr,
    TURNS: tl.constexpr,
):
    TILE: tl.constexpr = ROWS * TURNS
    sample, chunk, channel, start, left = locate(pixels, tiles, chunks, CHANNELS, WIDTH, TILE)
    channels = channel + tl.arange(0, WIDTH)
    rows = tl.arange(0, ROWS)
    offsets = rows[:, None] * CHANNELS + channels[None, :]
    inside = (channels < CHANNELS)[None, :]
    x += start

    mean = tl.zeros((ROWS, WIDTH), tl.float32)
    square = tl.zeros((ROWS, WIDTH), tl.float32)
    seen = tl.zeros((ROWS,), tl.float32)
    for first in range(0, left, TILE):
        count = tl.minimum(tl.maximum((left - first - rows + ROWS - 1) // ROWS, 0), TURNS).to(tl.float32)
        values, middle = (), tl.zeros((ROWS, WIDTH), tl.float32)
        for turn in tl.static_range(TURNS):
            mask = (rows + turn * ROWS < left - first)[:, None] & inside
            value = tl.load(x + (offsets + turn * ROWS * CHANNELS), mask, other=0.0).to(tl.float32)
            values += (value,)
            middle += value
        middle *= (1.0 / tl.maximum(count, 1.0))[:, None]
        within = tl.zeros((ROWS, WIDTH), tl.float32)
        for turn in tl.static_range(TURNS):
            mask = (rows + turn * ROWS < left - first)[:, None] & inside
            deviation = tl.where(mask, values[turn] - middle, 0.0)
            within += deviation * deviation
        apart = middle - mean
        fraction = (count / tl.maximum(seen + count, 1.0))[:, None]
        mean += apart * fraction
        square += within + apart * apart * (seen[:, None] * fraction)
        seen += count
        x += TILE * CHANNELS

    middle = tl.sum(mean * seen[:, None], 0) / left
    apart = mean - middle[None, :]
    square = tl.sum(square + seen[:, None] * (apart * apart), 0)
    to = (sample * chunks + chunk) * CHANNELS + channels
    tl.store(means + to, middle, channels < CHANNELS)
    tl.store(squares + to, square, channels < CHANNELS)


@triton.jit(do_not_specialize=["pixels", "in_chunk", "chunks"])
def group_norm_moments_reduce_kernel(
    mean,  # [B, G] float32
    rstd,  # [B, G] float32
    means,  # [B, chunks, C]
    squares,  # [B, chunks, C]
    eps,
    pixels,  # P
    in_chunk,  # pixels of a chunk, the last excepted
    chunks,
    CHANNELS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    program = tl.program_id(0)
    groups: tl.constexpr = CHANNELS // IN_GROUP
    base = (program // groups).to(tl.int64) * chunks * CHANNELS + program % groups * IN_GROUP
    means += base
    squares += base
    lanes = tl.arange(0, LANES)
    number = chunks * IN_GROUP
    size = pixels.to(tl.float32) * IN_GROUP

    # Differences from the first mean: their sum keeps digits that a sum of large means would lose.
    origin = tl.load(means)
    total = tl.zeros((LANES,), tl.float32)
    for first in range(0, number, LANES):
        chunk = (first + lanes) // IN_GROUP
        mask = first + lanes < number
        count = tl.minimum(pixels - chunk * in_chunk, in_chunk).to(tl.float32)
        value = tl.load(means + chunk * CHANNELS + (first + lanes) % IN_GROUP, mask, other=0.0)
        total += tl.where(mask, (value - origin) * count, 0.0)
    middle = origin + tl.sum(total, 0) / size

    total = tl.zeros((LANES,), tl.float32)
    for first in range(0, number, LANES):
        chunk = (first + lanes) // IN_GROUP
        mask = first + lanes < number
        count = tl.minimum(pixels - chunk * in_chunk, in_chunk).to(tl.float32)
        at = chunk * CHANNELS + (first + lanes) % IN_GROUP
        apart = tl.load(means + at, mask, other=0.0) - middle
        total += tl.where(mask, tl.load(squares + at, mask, other=0.0) + apart * apart * count, 0.0)
    variance = tl.sum(total, 0) / size
    tl.store(mean + program, middle)
    tl.store(rstd + program, tl.div_rn(1.0, tl.sqrt_rn(variance + eps)))


def moments(mean: Tensor, rstd: Tensor, x: Tensor, groups: int, eps: float) -> None:
    """Fill mean and rstd [B, G] with those of x [B, C, H, W]."""
    batch, channels = x.shape[:2]
    if batch == 0:
        return
    x, pixels = channels_last(x), x.shape[2] * x.shape[3]
    shape, grid, chunks, in_chunk = tiles_of(x, TILE_ELEMENTS)
    means, squares = torch.empty((2, batch, chunks, channels), dtype=torch.float32, device=x.device)
    group_norm_moments_kernel[(grid,)](
        x=x, means=means, squares=squares, pixels=pixels, chunks=chunks, CHANNELS=channels, **shape
    )
    group_norm_moments_reduce_kernel[(batch * groups,)](
        mean=mean,
        rstd=rstd,
        means=means,
        squares=squares,
        eps=eps,
        pixels=pixels,
        in_chunk=in_chunk,
        chunks=chunks,
        **reduction_of(chunks, channels, groups),
    )


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def empty_last(result: Tensor) -> Tensor:
    """Channels-last memory that a kernel can fill: the result's own, or more where it lies otherwise."""
    if result.is_contiguous(memory_format=torch.channels_last):
        return result
    return torch.empty_like(result, memory_format=torch.channels_last)


def tiles_of(x: Tensor, elements: int) -> tuple[dict[str, int], int, int, int]:
    """How a kernel of sums with so many elements a tile is launched.

    Returns:
        Arguments that follow from the shape of x; the number of programs; chunks of a sample; pixels of a chunk.
    """
    batch, channels, height, width = x.shape
    across = min(64, triton.next_power_of_2(channels))
    rows = max(NUM_WARPS * 32 * (16 // x.element_size()) // across, 1)
    tile = elements // across
    blocks, in_sample = -(-channels // across), -(-height * width // tile)
    tiles = max(batch * blocks * in_sample // PROGRAMS, 1)
    chunks = -(-in_sample // tiles)
    shape = {"tiles": tiles, "WIDTH": across, "ROWS": rows, "TURNS": tile // rows, "num_warps": NUM_WARPS, **FUSED}
    return shape, batch * blocks * chunks, chunks, tiles * tile


def reduction_of(chunks: int, channels: int, groups: int) -> dict[str, int]:
    in_group = channels // groups
    lanes = min(max(triton.next_power_of_2(chunks * in_group), 128), 1024)
    return {"CHANNELS": channels, "IN_GROUP": in_group, "LANES": lanes, "num_warps": NUM_WARPS, **FUSED}
