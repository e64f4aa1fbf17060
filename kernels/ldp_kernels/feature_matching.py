"""Feature matching on Triton: one launch over all levels forward, one backward, two bits an element in between.

The idea. The loss reads x and x' once. The gradient of both branches is ±sign(x - x') times a number per level, so the
forward writes the sign in two bits and the backward needs nothing else: no feature is read twice, none is kept alive.

Bytes an element in half precision: 2 + 2 read and 1/4 written forward, 1/4 read and 2 + 2 written backward, 8.5 in all
(eager 24, a compiled eager expression 12). Without a gradient the signs are not written.

A program owns a block of 8192 elements of one sample of one level, seen as ROWS x COLS. It walks down the rows; the
codes of column c meet in one word, row r at the bits 2r and 2r + 1. A word is as wide as an element, so features, signs
and gradients have the same number of elements in a 128-bit access, and one register layout serves the whole kernel:
packing is a shift and an or, with no shuffle, no shared memory and no change of layout (codes of neighbours in one word
would need a reduction across registers and narrow stores). `ldp_fast.reference.feature_matching` defines and packs the
same bits.

The sums are deterministic. Each program writes the sum of its block to a place of its own; a second, small launch adds
these in a fixed order, one program for each level and sample and one for the loss. No atomics.

How the levels reach the kernel: as arguments, tuples of pointers and numbers, at most `MAX_LEVELS` a launch. A program
finds its level by counting blocks, which is scalar work. The other way, a table of addresses in device memory, has to
be copied there in every call: from pageable memory that waits for the host (and is refused under graph capture), from
pinned memory a replay would read whatever the host has written there since. Arguments are recorded with the launch.

Tried:
  * Without the `tl.multiple_of` hints the pointer that was picked has lost its alignment: 128 loads of 16 bits on sm_80
    and sm_90 instead of 16 of 128 bits.
  * With the number of blocks of each level among the arguments six shapes made six kernels: Triton specialises every
    number in a tuple that is 1 or a multiple of 16. So the tuples hold only sizes and strides, whose divisibility does
    not change from call to call, and a program works out the rest.

`ALIGNED` is false where a pointer, row or size is not a multiple of 16 bytes; accesses are then one element wide. Group
normalisation wants its channels in multiples, so the features of a decoder are aligned.

B: samples. L: levels. M: elements of one sample of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._host import FUSED
from ._launch import launch

BLOCK = 8192
MAX_LEVELS = 8
NUM_WARPS = 4
CHUNK = 1024
_REDUCE = {"BLOCK": BLOCK, "CHUNK": CHUNK, "num_warps": NUM_WARPS, **FUSED}


@triton.jit
def _locate(program, sizes, batch, BLOCK: tl.constexpr):
    """The level to which a program (a block) belongs, and its number within the level."""
    level, start, end = 0, 0, 0
    for other in tl.static_range(len(sizes)):
        here = program >= end
        level, start = tl.where(here, other, level), tl.where(here, end, start)
        end += tl.cdiv(sizes[other], BLOCK) * batch
    return level, program - start


@triton.jit
def _pick(values, level):
    """values[level] for a level known only at run time."""
    value = values[0]
    for other in tl.static_range(1, len(values)):
        value = tl.where(level == other, values[other], value)
    return value


@triton.jit(do_not_specialize=["batch", "offset"])
def feature_matching_fwd_kernel(
    features,  # L pointers to x, rows of M elements
    features_prime,  # L pointers to x'
    strides,  # L distances between the rows of x, in elements
    strides_prime,  # L distances between the rows of x'
    sizes,  # L numbers M
    batch,  # B
    offset,  # blocks before this launch
    partials,  # [blocks] sums |x - x'|
    counts,  # [blocks] non-finite differences
    signs,  # [blocks, COLS] words
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    VECTOR: tl.constexpr,  # elements in 16 bytes
    ALIGNED: tl.constexpr,
    ZERO_NONFINITE: tl.constexpr,
    SAVE_SIGNS: tl.constexpr,
):
    program = tl.program_id(0)
    level, local = _locate(program, sizes, batch, ROWS * COLS)
    size = _pick(sizes, level)
    per_row = tl.cdiv(size, ROWS * COLS)
    row, first = (local // per_row).to(tl.int64), (local % per_row).to(tl.int64) * (ROWS * COLS)
    stride, stride_prime = _pick(strides, level), _pick(strides_prime, level)
    x, x_prime = _pick(features, level), _pick(features_prime, level)
    if ALIGNED:
        x, x_prime = tl.multiple_of(x, 16), tl.multiple_of(x_prime, 16)
        stride, stride_prime = tl.multiple_of(stride, VECTOR), tl.multiple_of(stride_prime, VECTOR)
        size = tl.multiple_of(size, VECTOR)
    x += row * stride + first
    x_prime += row * stride_prime + first
    left = size - first

    columns = tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    bad = tl.zeros((COLS,), tl.int32)
    word = tl.zeros((COLS,), tl.int32)
    for r in tl.static_range(ROWS):
        at = r * COLS + columns
        mask = at < left
        difference = tl.load(x + at, mask, other=0.0).to(tl.float32)
        difference -= tl.load(x_prime + at, mask, other=0.0).to(tl.float32)
        finite = tl.abs(difference) < float("inf")
        bad += tl.where(finite, 0, 1)
        if ZERO_NONFINITE:
            difference = tl.where(finite, difference, 0.0)
        total += tl.abs(difference)
        if SAVE_SIGNS:
            code = tl.where(difference > 0, 1, tl.where(difference < 0, 3, tl.where(difference != difference, 2, 0)))
            word |= code << (2 * r)

    block = (program + offset).to(tl.int64)
    tl.store(partials + block, tl.sum(total))
    tl.store(counts + block, tl.sum(bad))
    if SAVE_SIGNS:
        tl.store(signs + block * COLS + columns, word.to(signs.dtype.element_ty))


@triton.jit(do_not_specialize=["batch", "offset"])
def feature_matching_reduce_kernel(
    partials,  # [blocks] sums |x - x'|
    counts,  # [blocks] non-finite differences
    loss,  # [] of this launch
    level_values,  # [L, B] mean |x - x'|
    nonfinite,  # [L, B] non-finite differences
    sizes,  # L numbers M
    weights,  # L factors of the sums in the loss
    batch,  # B
    offset,  # blocks before this launch
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0)
    lanes = tl.arange(0, CHUNK)
    partials += offset
    counts += offset
    if program == tl.num_programs(0) - 1:
        total = tl.zeros((CHUNK,), tl.float32)
        for level in tl.static_range(len(sizes)):
            number = tl.cdiv(sizes[level], BLOCK) * batch
            part = tl.zeros((CHUNK,), tl.float32)
            for i in range(0, number, CHUNK):
                part += tl.load(partials + i + lanes, i + lanes < number, other=0.0)
            total += part * weights[level]
            partials += number
        tl.store(loss, tl.sum(total))
    else:
        level = program // batch
        start = 0
        for other in tl.static_range(len(sizes)):
            start += tl.where(other < level, tl.cdiv(sizes[other], BLOCK) * batch, 0)
        size = _pick(sizes, level)
        per_row = tl.cdiv(size, BLOCK)
        start += (program % batch) * per_row
        total = tl.zeros((CHUNK,), tl.float32)
        bad = tl.zeros((CHUNK,), tl.int32)
        for i in range(0, per_row, CHUNK):
            mask = i + lanes < per_row
            total += tl.load(partials + start + i + lanes, mask, other=0.0)
            bad += tl.load(counts + start + i + lanes, mask, other=0)
        tl.store(level_values + program, tl.sum(total) / size)
        tl.store(nonfinite + program, tl.sum(bad))


@triton.jit(do_not_specialize=["batch", "offset"])
def feature_matching_bwd_kernel(
    grad,  # [] gradient of the loss, float32
    signs,  # [blocks, COLS] words
    grads,  # L pointers to the gradient of x, dense rows of M elements
    grads_prime,  # L pointers to the gradient of x'
    sizes,  # L numbers M
    weights,  # L factors of the sums in the loss
    batch,  # B
    offset,  # blocks before this launch
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    VECTOR: tl.constexpr,
    ALIGNED: tl.constexpr,
    NEEDS_FEATURES: tl.constexpr,
    NEEDS_FEATURES_PRIME: tl.constexpr,
):
    program = tl.program_id(0)
    level, local = _locate(program, sizes, batch, ROWS * COLS)
    size = _pick(sizes, level)
    per_row = tl.cdiv(size, ROWS * COLS)
    row, first = (local // per_row).to(tl.int64), (local % per_row).to(tl.int64) * (ROWS * COLS)
    grad_x, grad_x_prime = _pick(grads, level), _pick(grads_prime, level)
    if ALIGNED:
        grad_x, grad_x_prime = tl.multiple_of(grad_x, 16), tl.multiple_of(grad_x_prime, 16)
        size = tl.multiple_of(size, VECTOR)
    grad_x += row * size + first
    grad_x_prime += row * size + first
    left = size - first
    scale = tl.load(grad) * _pick(weights, level)

    columns = tl.arange(0, COLS)
    word = tl.load(signs + (program + offset).to(tl.int64) * COLS + columns).to(tl.int32)
    for r in tl.static_range(ROWS):
        at = r * COLS + columns
        mask = at < left
        code = (word << (30 - 2 * r)) >> 30
        value = tl.where(code == -2, float("nan"), code.to(tl.float32) * scale)
        if NEEDS_FEATURES:
            tl.store(grad_x + at, value.to(grad_x.dtype.element_ty), mask)
        if NEEDS_FEATURES_PRIME:
            tl.store(grad_x_prime + at, (-value).to(grad_x_prime.dtype.element_ty), mask)


def forward(
    loss: Tensor,
    level_values: Tensor,
    nonfinite: Tensor,
    signs: Tensor,
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor],
    norm: str,
    batch_reduction: str,
    nonfinite_policy: str,
    save_signs: bool,
) -> None:
    """Fill loss [], level_values [L, B], nonfinite [L, B] and signs [blocks, COLS]; the rest is as in the reference."""
    xs, x_primes = list(features), list(features_prime)
    if not x_primes:
        x_primes = [x[x.shape[0] // 2 :] for x in features]
        xs = [x[: x.shape[0] // 2] for x in features]
    batch, sizes = xs[0].shape[0], [_size(x) for x in xs]
    if batch == 0:
        loss.zero_()
        return
    weights = _weights(sizes, batch, norm, batch_reduction)
    partials = loss.new_empty(_programs(sizes, batch))
    counts = nonfinite.new_empty(partials.shape)
    launches = range(0, len(xs), MAX_LEVELS)
    losses = loss if len(launches) == 1 else loss.new_empty(len(launches))
    offset = 0
    for number, low in enumerate(launches):
        part = slice(low, low + MAX_LEVELS)
        some, primes, of = tuple(xs[part]), tuple(x_primes[part]), tuple(sizes[part])
        programs = _programs(of, batch)
        strides = strides_prime = of
        if batch > 1:
            strides, strides_prime = tuple(map(_stride, some)), tuple(map(_stride, primes))
        constants = _shape((*some, *primes), (*strides, *strides_prime, *of))
        launch(
            feature_matching_fwd_kernel,
            (programs,),
            (*some, *primes, partials, counts, signs),
            (strides, strides_prime, of, batch, offset),
            constants | {"ZERO_NONFINITE": nonfinite_policy == "zero", "SAVE_SIGNS": save_signs},
            (some, primes, strides, strides_prime, of, batch, offset, partials, counts, signs),
        )
        launch(
            feature_matching_reduce_kernel,
            (len(of) * batch + 1,),
            (
                partials,
                counts,
                losses if losses is loss else losses[number:],
                level_values[low:] if low else level_values,
                nonfinite[low:] if low else nonfinite,
            ),
            (of, tuple(weights[part]), batch, offset),
            _REDUCE,
        )
        offset += programs
    if losses is not loss:
        torch.sum(losses, dim=0, out=loss)


def backward(
    grads: Sequence[Tensor],
    grad: Tensor,
    signs: Tensor,
    sizes: Sequence[int],
    batch: int,
    dtype: torch.dtype,
    norm: str,
    batch_reduction: str,
    halves: bool,
    needs_features: bool,
    needs_features_prime: bool,
) -> None:
    """Fill `grads`, the gradients in the order in which the reference returns them, from the packed signs."""
    if batch == 0 or not grads:
        return
    levels = len(sizes)
    if halves:
        needs_features = needs_features_prime = True
        of_x, of_x_prime = [whole[:batch] for whole in grads], [whole[batch:] for whole in grads]
    else:
        # A branch that is not wanted gets the other's pointers and is compiled without its stores.
        of_x, of_x_prime = list(grads[:levels]), list(grads[-levels:])
    weights = _weights(sizes, batch, norm, batch_reduction)
    offset = 0
    for low in range(0, levels, MAX_LEVELS):
        part = slice(low, low + MAX_LEVELS)
        some, primes, of = tuple(of_x[part]), tuple(of_x_prime[part]), tuple(sizes[part])
        programs, factors = _programs(of, batch), tuple(weights[part])
        launch(
            feature_matching_bwd_kernel,
            (programs,),
            (grad, signs, *some, *primes),
            (of, factors, batch, offset),
            _shape((*some, *primes), of)
            | {"NEEDS_FEATURES": needs_features, "NEEDS_FEATURES_PRIME": needs_features_prime},
            (grad, signs, some, primes, of, factors, batch, offset),
        )
        offset += programs


def _programs(sizes: Sequence[int], batch: int) -> int:
    """The number of blocks of some levels."""
    return batch * sum(-(-size // BLOCK) for size in sizes)


def _size(x: Tensor) -> int:
    """M of [B, M] or contiguous [B, ...]."""
    return x.shape[1] if x.dim() == 2 else math.prod(x.shape[1:])


def _stride(x: Tensor) -> int:
    """The distance between the rows of [B, ...]."""
    return x.stride(0)


def _weights(sizes: Sequence[int], batch: int, norm: str, batch_reduction: str) -> list[float]:
    per_batch = 1.0 / batch if batch_reduction == "mean" else 1.0
    return [per_batch / size if norm == "mean" else per_batch for size in sizes]


def _shape(rows: Sequence[Tensor], distances: Sequence[int]) -> dict[str, Any]:
    """The compile-time arguments that follow from the dtype of the tensors [B, ...] of a launch, and from alignment.

    Args:
        rows: the tensors.
        distances: their strides and sizes, in elements.
    """
    itemsize, low = rows[0].element_size(), 0
    for x in rows:
        low |= x.data_ptr()
    for distance in distances:
        low |= distance * itemsize
    return {
        "ROWS": 4 * itemsize,
        "COLS": 2048 // itemsize,
        "VECTOR": 16 // itemsize,
        "ALIGNED": low % 16 == 0,
        "num_warps": NUM_WARPS,
        **FUSED,
    }
