"""Group norm and SiLU on Triton, channels-last: forward, and the gradient with respect to x.

The idea. Of every x only two numbers a group are kept (`group_norm_moments`); y and everything between is computed
again where it is needed. Per element of half precision: forward reads 2 bytes and writes 2; backward reads x and the
gradient twice, for the sums and for the result, and writes 2: 10 in all. The skip connection's gradient (2 more) and
the signs of feature matching (1/4 more) come along in the last pass; adding them afterwards would be 6 each, and more.
One launch forward, three backward.

Sums over pixels are cut as in `group_norm_moments`: a program leaves those of its 64 channels, and a second, small
launch joins them to groups, in a fixed order.

Forward and the last pass of the backward see a sample as one run of memory, a block of 8192 elements a program, ROWS x
COLS as in `feature_matching`, so that a word of signs is loaded once and serves a column. Where C divides COLS (every
power of two up to 512) a column has one channel, and what belongs to the channel is loaded once a program; elsewhere it
is gathered row by row. All rows of a part are loaded before the first is stored: a compiler that cannot tell the
buffers apart moves no load across a store.
Rows are vectors, one after another, so that all loads have one register layout: with tiles of
two dimensions Triton 3.6 chose another for what belongs to groups, and passed it through shared memory.

B: samples. P: pixels, H·W. C: channels. G: groups.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._host import FUSED
from .group_norm_moments import NUM_WARPS, channels_last, empty_last, locate, reduction_of, tiles_of

BLOCK = 8192  # elements of a block of packed signs
TILE_ELEMENTS = 4096  # of the sums: two inputs, so half as many elements of each at a time


@triton.jit
def _sigmoid(h):
    return 1.0 / (1.0 + tl.exp(-h))


@triton.jit
def _inner_gradient(grad, h, SILU: tl.constexpr):
    """From the gradient of silu(h), or of h, to that of h."""
    if SILU:
        s = _sigmoid(h)
        grad *= s * (1.0 + h * (1.0 - s))
    return grad


@triton.jit
def _channel_and_group(element, CHANNELS: tl.constexpr, IN_GROUP: tl.constexpr):
    """Channel and group of elements of a sample. The group is not worked out from the channel: Triton 3.6 would then
    load what belongs to it once more, for the first element of every thread."""
    return element % CHANNELS, element // IN_GROUP % (CHANNELS // IN_GROUP)


@triton.jit
def _coefficients(channel, group, inside, mean, rstd, weight, bias):
    """μ, γ ρ and β of channels and their groups; `mean` and `rstd` are the sample's."""
    centre = tl.load(mean + group, inside, other=0.0)
    scale = tl.load(rstd + group, inside, other=0.0)
    if weight is not None:
        scale *= tl.load(weight + channel, inside, other=0.0).to(tl.float32)
    shift = tl.zeros_like(centre)
    if bias is not None:
        shift = tl.load(bias + channel, inside, other=0.0).to(tl.float32)
    return centre, scale, shift


@triton.jit(do_not_specialize=["blocks"])
def group_norm_silu_kernel(
    out,  # [B, P, C]
    x,  # [B, P, C]
    mean,  # [B, G]
    rstd,  # [B, G]
    weight,  # [C], or None
    bias,  # [C], or None
    size,  # P·C
    blocks,  # of a sample
    CHANNELS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    PART: tl.constexpr,  # rows at a time
    SILU: tl.constexpr,
):
    program = tl.program_id(0)
    sample, first = (program // blocks).to(tl.int64), (program % blocks).to(tl.int64) * (ROWS * COLS)
    x += sample * size + first
    out += sample * size + first
    mean += sample * (CHANNELS // IN_GROUP)
    rstd += sample * (CHANNELS // IN_GROUP)
    left = tl.minimum(size - first, ROWS * COLS).to(tl.int32)

    columns = tl.arange(0, COLS)
    periodic: tl.constexpr = COLS % CHANNELS == 0
    if periodic:
        channel, group = _channel_and_group(columns, CHANNELS, IN_GROUP)
        centre, scale, shift = _coefficients(channel, group, columns < COLS, mean, rstd, weight, bias)
    else:
        # What the compiler needs for wide loads of weight and bias: `first` is a multiple of every power of two in C.
        multiple: tl.constexpr = (CHANNELS | 16) & -(CHANNELS | 16)
        phase = tl.multiple_of((first % CHANNELS).to(tl.int32), multiple)
    for part in tl.static_range(0, ROWS, PART):
        loaded = ()
        for row in tl.static_range(part, part + PART):
            at = row * COLS + columns
            loaded += (tl.load(x + at, at < left, other=0.0),)
        for row in tl.static_range(part, part + PART):
            at = row * COLS + columns
            mask = at < left
            if not periodic:
                channel, group = _channel_and_group(phase + at, CHANNELS, IN_GROUP)
                centre, scale, shift = _coefficients(channel, group, mask, mean, rstd, weight, bias)
            values = (loaded[row - part].to(tl.float32) - centre) * scale + shift
            if SILU:
                values *= _sigmoid(values)
            tl.store(out + at, values.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["pixels", "tiles", "chunks"])
def group_norm_silu_bwd_sums_kernel(
    grad,  # [B, P, C], of the output
    x,  # [B, P, C]
    mean,  # [B, G]
    rstd,  # [B, G]
    weight,  # [C], or None
    bias,  # [C], or None
    sums,  # [B, chunks, C] float32, of dL/dh over a chunk's pixels
    moments,  # [B, chunks, C] float32, of dL/dh (x - mean)
    pixels,
    tiles,
    chunks,
    CHANNELS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    TURNS: tl.constexpr,
    SILU: tl.constexpr,
):
    TILE: tl.constexpr = ROWS * TURNS
    sample, chunk, channel, start, left = locate(pixels, tiles, chunks, CHANNELS, WIDTH, TILE)
    channels = channel + tl.arange(0, WIDTH)
    rows = tl.arange(0, ROWS)
    offsets = rows[:, None] * CHANNELS + channels[None, :]
    inside = (channels < CHANNELS)[None, :]
    mean += sample * (CHANNELS // IN_GROUP)
    rstd += sample * (CHANNELS // IN_GROUP)
    group = (channels // IN_GROUP)[None, :]
    centre, scale, shift = _coefficients(channels[None, :], group, inside, mean, rstd, weight, bias)
    x += start
    grad += start

    total = tl.zeros((ROWS, WIDTH), tl.float32)
    moment = tl.zeros((ROWS, WIDTH), tl.float32)
    for first in range(0, left, TILE):
        for turn in tl.static_range(TURNS):
            mask = (rows + turn * ROWS < left - first)[:, None] & inside
            at = offsets + turn * ROWS * CHANNELS
            deviation = tl.load(x + at, mask, other=0.0).to(tl.float32) - centre
            # Zero where there is no pixel, and so is what comes of it.
            inner = tl.load(grad + at, mask, other=0.0).to(tl.float32)
            inner = _inner_gradient(inner, deviation * scale + shift, SILU)
            total += inner
            moment += inner * deviation
        x += TILE * CHANNELS
        grad += TILE * CHANNELS

    to = (sample * chunks + chunk) * CHANNELS + channels
    tl.store(sums + to, tl.sum(total, 0), channels < CHANNELS)
    tl.store(moments + to, tl.sum(moment, 0), channels < CHANNELS)


@triton.jit(do_not_specialize=["pixels", "chunks"])
def group_norm_silu_bwd_reduce_kernel(
    constant,  # [B, G] float32, -ρ mean(g)
    slope,  # [B, G] float32, -ρ² mean(g x̂)
    sums,  # [B, chunks, C]
    moments,  # [B, chunks, C]
    rstd,  # [B, G]
    weight,  # [C], or None
    pixels,
    chunks,
    CHANNELS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    LANES: tl.constexpr,
):
    program = tl.program_id(0)
    groups: tl.constexpr = CHANNELS // IN_GROUP
    channel = program % groups * IN_GROUP
    base = (program // groups).to(tl.int64) * chunks * CHANNELS + channel
    lanes = tl.arange(0, LANES)
    number = chunks * IN_GROUP
    total = tl.zeros((LANES,), tl.float32)
    moment = tl.zeros((LANES,), tl.float32)
    for first in range(0, number, LANES):
        mask = first + lanes < number
        inside = (first + lanes) % IN_GROUP
        at = base + (first + lanes) // IN_GROUP * CHANNELS + inside
        s, m = tl.load(sums + at, mask, other=0.0), tl.load(moments + at, mask, other=0.0)
        if weight is not None:
            w = tl.load(weight + channel + inside, mask, other=0.0).to(tl.float32)
            s, m = s * w, m * w
        total += s
        moment += m
    size = pixels.to(tl.float32) * IN_GROUP
    rho = tl.load(rstd + program)
    tl.store(constant + program, -rho * (tl.sum(total, 0) / size))
    tl.store(slope + program, -rho * rho * (rho * (tl.sum(moment, 0) / size)))


@triton.jit(do_not_specialize=["blocks", "half"])
def group_norm_silu_bwd_kernel(
    grad_x,  # [B, P, C]
    grad,  # [B, P, C], of the output
    x,  # [B, P, C]
    mean,  # [B, G]
    rstd,  # [B, G]
    weight,  # [C], or None
    bias,  # [C], or None
    constant,  # [B, G]
    slope,  # [B, G]
    addend,  # [B, P, C], or None
    signs,  # [B / 2, blocks, COLS] words, or None
    sign_weight,
    size,  # P·C
    blocks,  # of a sample
    half,  # B / 2
    CHANNELS: tl.constexpr,
    IN_GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    PART: tl.constexpr,
    SILU: tl.constexpr,
):
    program = tl.program_id(0)
    row, block = program // blocks, program % blocks
    sample, first = row.to(tl.int64), block.to(tl.int64) * (ROWS * COLS)
    x += sample * size + first
    grad += sample * size + first
    grad_x += sample * size + first
    if addend is not None:
        addend += sample * size + first
    mean += sample * (CHANNELS // IN_GROUP)
    rstd += sample * (CHANNELS // IN_GROUP)
    constant += sample * (CHANNELS // IN_GROUP)
    slope += sample * (CHANNELS // IN_GROUP)
    left = tl.minimum(size - first, ROWS * COLS).to(tl.int32)

    columns = tl.arange(0, COLS)
    if signs is not None:
        second = row >= half
        signs += (tl.where(second, row - half, row).to(tl.int64) * blocks + block) * COLS
        step = tl.where(second, -sign_weight, sign_weight)
        word = tl.load(signs + columns).to(tl.int32)
    periodic: tl.constexpr = COLS % CHANNELS == 0
    if periodic:
        channel, group = _channel_and_group(columns, CHANNELS, IN_GROUP)
        centre, scale, shift = _coefficients(channel, group, columns < COLS, mean, rstd, weight, bias)
        fixed, linear = tl.load(constant + group), tl.load(slope + group)
    else:
        # What the compiler needs for wide loads of weight and bias: `first` is a multiple of every power of two in C.
        multiple: tl.constexpr = (CHANNELS | 16) & -(CHANNELS | 16)
        phase = tl.multiple_of((first % CHANNELS).to(tl.int32), multiple)
    for part in tl.static_range(0, ROWS, PART):
        loaded, loaded_grad, loaded_addend = (), (), ()
        for r in tl.static_range(part, part + PART):
            at = r * COLS + columns
            mask = at < left
            loaded += (tl.load(x + at, mask, other=0.0),)
            loaded_grad += (tl.load(grad + at, mask, other=0.0),)
            if addend is not None:
                loaded_addend += (tl.load(addend + at, mask, other=0.0),)
        for r in tl.static_range(part, part + PART):
            at = r * COLS + columns
            mask = at < left
            if not periodic:
                channel, group = _channel_and_group(phase + at, CHANNELS, IN_GROUP)
                centre, scale, shift = _coefficients(channel, group, mask, mean, rstd, weight, bias)
                fixed = tl.load(constant + group, mask, other=0.0)
                linear = tl.load(slope + group, mask, other=0.0)
            deviation = loaded[r - part].to(tl.float32) - centre
            inner = _inner_gradient(loaded_grad[r - part].to(tl.float32), deviation * scale + shift, SILU)
            result = inner * scale + (deviation * linear + fixed)
            if addend is not None:
                result += loaded_addend[r - part].to(tl.float32)
            if signs is not None:
                code = (word << (30 - 2 * r)) >> 30
                result += tl.where(code == -2, float("nan"), code.to(tl.float32) * step)
            tl.store(grad_x + at, result.to(grad_x.dtype.element_ty), mask)


def forward(
    out: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None, silu: bool
) -> None:
    """Fill out [B, C, H, W]; the rest is as in the reference."""
    if x.shape[0] == 0:
        return
    if (last := empty_last(out)) is not out:
        forward(last, x, mean, rstd, weight, bias, silu)
        out.copy_(last)
        return
    x = channels_last(x)
    constants = _constants(mean, rstd, weight, bias)
    shape, grid = _stream(x, mean.shape[1])
    group_norm_silu_kernel[(grid,)](out=out, x=x, SILU=silu, **constants, **shape)


def backward(
    grad_x: Tensor,
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    silu: bool,
    addend: Tensor | None = None,
    signs: Tensor | None = None,
    sign_weight: float = 0.0,
) -> None:
    """Fill grad_x [B, C, H, W]; the rest is as in the reference."""
    batch, channels, groups = x.shape[0], x.shape[1], mean.shape[1]
    if batch == 0:
        return
    if (last := empty_last(grad_x)) is not grad_x:
        backward(last, grad, x, mean, rstd, weight, bias, silu, addend, signs, sign_weight)
        grad_x.copy_(last)
        return
    grad, x, pixels = channels_last(grad), channels_last(x), x.shape[2] * x.shape[3]
    constants = _constants(mean, rstd, weight, bias)
    shape, grid, chunks, _ = tiles_of(x, TILE_ELEMENTS)
    sums, products = torch.empty((2, batch, chunks, channels), dtype=torch.float32, device=x.device)
    group_norm_silu_bwd_sums_kernel[(grid,)](
        grad=grad,
        x=x,
        sums=sums,
        moments=products,
        pixels=pixels,
        chunks=chunks,
        CHANNELS=channels,
        IN_GROUP=channels // groups,
        SILU=silu,
        **constants,
        **shape,
    )
    constant, slope = torch.empty((2, batch, groups), dtype=torch.float32, device=x.device)
    group_norm_silu_bwd_reduce_kernel[(batch * groups,)](
        constant=constant,
        slope=slope,
        sums=sums,
        moments=products,
        rstd=constants["rstd"],
        weight=constants["weight"],
        pixels=pixels,
        chunks=chunks,
        **reduction_of(chunks, channels, groups),
    )
    stream, programs = _stream(x, groups)
    group_norm_silu_bwd_kernel[(programs,)](
        grad_x=grad_x,
        grad=grad,
        x=x,
        constant=constant,
        slope=slope,
        addend=None if addend is None else channels_last(addend),
        signs=None if signs is None else signs.contiguous(),
        sign_weight=sign_weight,
        half=batch // 2,
        SILU=silu,
        **constants,
        **stream,
    )


def _constants(mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor | None]:
    named = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias}
    return {name: None if value is None else value.contiguous() for name, value in named.items()}


def _stream(x: Tensor, groups: int) -> tuple[dict[str, int], int]:
    """Arguments of a streaming kernel that follow from x, and its programs."""
    batch, channels, size = x.shape[0], x.shape[1], x.shape[1] * x.shape[2] * x.shape[3]
    itemsize, blocks = x.element_size(), -(-size // BLOCK)
    columns = 2048 // itemsize
    # What is gathered for every row takes registers, element by element most: fewer rows at a time then.
    part = 2 * itemsize if columns % channels == 0 else itemsize if channels % 16 == 0 else 1
    shape = {
        "size": size,
        "blocks": blocks,
        "CHANNELS": channels,
        "IN_GROUP": channels // groups,
        "ROWS": 4 * itemsize,
        "COLS": columns,
        "PART": part,
        "num_warps": NUM_WARPS,
        **FUSED,
    }
    return shape, batch * blocks
