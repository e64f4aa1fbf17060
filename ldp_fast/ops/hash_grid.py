"""`torch.ops.ldp_fast.hash_grid`, its gradients by table and positions, and theirs.

The layout (`reference.hash_grid.GridLayout`) is told by its numbers, so that `torch.compile` sees plain integers:
`ldp_fast._C.HashGridLayout` has them. Tensors are contiguous; the table is float32 or float64, and on CUDA a float16
copy of it, `shadow`, may be read in its place, the gradient being the table's all the same.

Bit-equal from run to run on CPUs, and on CUDA except the table's gradient, which is summed by atomics unless
`torch.use_deterministic_algorithms(True)` holds when the backward runs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import reference
from . import _native
from ._library import backward_of, define, register, register_autograd, register_no_gradient

# Of a GridLayout.
SCHEMA = "int[] offsets, int[] resolutions, float[] scales, float shift, int indexing, bool smoothstep"


def _fake(positions: Tensor, table: Tensor, shadow: Tensor | None, count: Tensor | None, *layout: Any) -> Tensor:
    _, resolutions, *_ = layout
    return table.new_empty(positions.shape[0], len(resolutions) * table.shape[1])


def _fake_backward_table(
    grad: Tensor, positions: Tensor, count: Tensor | None, entries: int, features: int, *rest: Any
) -> Tensor:
    return grad.new_empty(entries, features)


def _fake_backward_positions(grad: Tensor, positions: Tensor, table: Tensor, *rest: Any) -> Tensor:
    return positions.new_empty(positions.shape)


def _fake_backward_positions_backward(
    grad_out: Tensor, grad: Tensor, positions: Tensor, table: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return grad.new_empty(grad.shape), positions.new_empty(positions.shape), table.new_empty(table.shape)


def _native_backward_table(
    grad_table: Tensor,
    grad: Tensor,
    positions: Tensor,
    count: Tensor | None,
    entries: int,
    features: int,
    *layout_and_deterministic: Any,
) -> None:
    *layout, deterministic = layout_and_deterministic
    workspace = None
    if grad.is_cuda:
        grad_table.zero_()
        if deterministic:
            workspace = grad.new_zeros(entries * features + 1, dtype=torch.int64)
    _native.function("hash_grid_backward_table")(grad_table, workspace, grad, positions, count, *layout)


def _by_table(grad: Tensor, positions: Tensor, table: Tensor, count: Tensor | None, layout: list[Any]) -> Tensor:
    deterministic = torch.are_deterministic_algorithms_enabled()
    return torch.ops.ldp_fast.hash_grid_backward_table(grad, positions, count, *table.shape, *layout, deterministic)


def _rest(ctx: Any, given: int) -> tuple[None, ...]:
    """The gradients of the arguments after the first `given`, which have none."""
    return (None,) * (len(ctx.needs_input_grad) - given)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    positions, table, shadow, count, *ctx.layout = inputs
    ctx.save_for_backward(positions, table, shadow, count)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    positions, table, shadow, count = ctx.saved_tensors
    grad, by_positions, by_table = grad.contiguous(), None, None
    if ctx.needs_input_grad[0]:
        by_positions = torch.ops.ldp_fast.hash_grid_backward_positions(
            grad, positions, table, shadow, count, *ctx.layout
        )
    if ctx.needs_input_grad[1]:
        by_table = _by_table(grad, positions, table, count, ctx.layout)
    return by_positions, by_table, *_rest(ctx, 2)


def _setup_context_table(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, positions, count, _entries, _features, *ctx.layout, _deterministic = inputs
    ctx.save_for_backward(grad, positions, count)


def _backward_table(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    # <gradient by the table, V> is <hash_grid(positions, V), grad>: V takes the table's place.
    grad, positions, count = ctx.saved_tensors
    grad_out, by_grad, by_positions = grad_out.contiguous(), None, None
    if ctx.needs_input_grad[0]:
        by_grad = torch.ops.ldp_fast.hash_grid(positions, grad_out, None, count, *ctx.layout)
    if ctx.needs_input_grad[1]:
        by_positions = torch.ops.ldp_fast.hash_grid_backward_positions(
            grad, positions, grad_out, None, count, *ctx.layout
        )
    return by_grad, by_positions, *_rest(ctx, 2)


def _setup_context_positions(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, positions, table, shadow, count, *ctx.layout = inputs
    ctx.save_for_backward(grad, positions, table, shadow, count)


def _backward_positions(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.ldp_fast.hash_grid_backward_positions_backward(
        grad_out.contiguous(), *ctx.saved_tensors, *ctx.layout
    )
    wanted = (grad if needed else None for grad, needed in zip(grads, ctx.needs_input_grad[:3], strict=True))
    return *wanted, *_rest(ctx, 3)


define(f"hash_grid(Tensor positions, Tensor table, Tensor? shadow, Tensor? count, {SCHEMA}) -> Tensor")
define(
    "hash_grid_backward_table(Tensor grad, Tensor positions, Tensor? count, SymInt entries, SymInt features, "
    f"{SCHEMA}, bool deterministic) -> Tensor"
)
define(
    "hash_grid_backward_positions(Tensor grad, Tensor positions, Tensor table, Tensor? shadow, Tensor? count, "
    f"{SCHEMA}) -> Tensor"
)
define(
    "hash_grid_backward_positions_backward(Tensor grad_out, Tensor grad, Tensor positions, Tensor table, "
    f"Tensor? shadow, Tensor? count, {SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
register("hash_grid", reference=reference.hash_grid, fake=_fake, native=True)
register(
    "hash_grid_backward_table",
    reference=reference.hash_grid_backward_table,
    fake=_fake_backward_table,
    native=_native_backward_table,
)
register(
    "hash_grid_backward_positions",
    reference=reference.hash_grid_backward_positions,
    fake=_fake_backward_positions,
    native=True,
)
register(
    "hash_grid_backward_positions_backward",
    reference=reference.hash_grid_backward_positions_backward,
    fake=_fake_backward_positions_backward,
)
register_autograd("hash_grid", _backward, _setup_context)
register_autograd("hash_grid_backward_table", _backward_table, _setup_context_table)
register_autograd("hash_grid_backward_positions", _backward_positions, _setup_context_positions)
register_no_gradient("hash_grid_backward_positions_backward", backward_of("hash_grid_backward_positions"))
