"""Schema, shapes and gradient of the feature matching operator (L_FM, Eq. 2 to 4).

The operator sees rows: [B, M_l], the elements of a sample in memory order, or contiguous [B, ...], which is the same.
Bringing [B, C_l, H_l, W_l] into that form is a view for every dense layout, none for a contiguous one, and belongs to
`ldp_fast.losses.feature_matching`; the gradients then come out in the features' own memory format without anybody
asking for it.

`features_prime` is empty for the halves form: each entry of `features` is [2B, M_l], x above x', and its gradient is
one tensor that is written as a whole.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference import feature_matching as reference
from . import _library
from ._direct import call
from ._native import function

_library.define(
    "feature_matching(Tensor[] features, Tensor[] features_prime, str norm, str batch_reduction, str nonfinite, "
    "bool save_signs) -> (Tensor loss, Tensor level_values, Tensor nonfinite_counts, Tensor signs)"
)
_library.define(
    "feature_matching_backward(Tensor grad, Tensor signs, SymInt[] sizes, SymInt batch, ScalarType dtype, str norm, "
    "str batch_reduction, bool halves, bool needs_features, bool needs_features_prime) -> Tensor[]"
)


def _batch(features: Sequence[Tensor], features_prime: Sequence[Tensor]) -> int:
    return features[0].shape[0] if features_prime else features[0].shape[0] // 2


def _check_rows(features: Sequence[Tensor], features_prime: Sequence[Tensor]) -> None:
    for x in (*features, *features_prime):
        dense = x.is_contiguous() or (x.dim() == 2 and (x.shape[1] == 1 or x.stride(1) == 1))
        if x.dim() < 2 or not dense or (x.numel() == 0 and 0 in x.shape[1:]):
            raise ValueError(
                "feature_matching: features: expected rows [B, M] of at least one element and of stride 1, "
                f"got shape {list(x.shape)} and strides {list(x.stride())}"
            )


def _forward_outputs(
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor],
    norm: str,
    batch_reduction: str,
    nonfinite: str,
    save_signs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _check_rows(features, features_prime)
    first, levels, batch = features[0], len(features), _batch(features, features_prime)
    dtype = torch.promote_types(first.dtype, torch.float32)
    sizes = [reference.row_size(x) for x in features] if save_signs else ()
    blocks = batch * sum((size + reference.BLOCK - 1) // reference.BLOCK for size in sizes)
    return (
        first.new_empty((), dtype=dtype),
        first.new_empty((levels, batch), dtype=dtype),
        first.new_empty((levels, batch), dtype=torch.int32),
        first.new_empty((blocks, 2048 // first.element_size()), dtype=reference.WORD_DTYPES[first.element_size()]),
    )


def _backward_outputs(
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
) -> list[Tensor]:
    return reference.allocate_gradients(signs, sizes, batch, dtype, halves, needs_features, needs_features_prime)[0]


def _native(
    loss: Tensor,
    level_values: Tensor,
    counts: Tensor,
    signs: Tensor,
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor],
    norm: str,
    batch_reduction: str,
    nonfinite: str,
    save_signs: bool,
) -> None:
    outputs, lists = (loss, level_values, counts, signs), (features, features_prime)
    options = norm == "mean", batch_reduction == "mean", nonfinite == "zero", save_signs
    function("feature_matching")(*outputs, *lists, *options)


def _native_backward(
    grads: Sequence[Tensor],
    grad: Tensor,
    signs: Tensor,
    sizes: Sequence[int],
    batch: int,
    dtype: torch.dtype,
    norm: str,
    batch_reduction: str,
    halves: bool,
    *needs: bool,
) -> None:
    means = norm == "mean", batch_reduction == "mean"
    function("feature_matching_backward")(grads, grad, signs, sizes, batch, *means, halves, *needs)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    features, features_prime, norm, batch_reduction, _, save_signs = inputs
    _, level_values, counts, signs = output
    ctx.mark_non_differentiable(level_values, counts, signs)
    ctx.set_materialize_grads(False)
    if save_signs:
        ctx.save_for_backward(signs)
    ctx.shapes, ctx.shapes_prime = [x.shape for x in features], [x.shape for x in features_prime]
    ctx.batch = _batch(features, features_prime)
    ctx.dtype, ctx.norm, ctx.batch_reduction = features[0].dtype, norm, batch_reduction
    ctx.halves, ctx.save_signs, ctx.levels = not features_prime, save_signs, len(features)


def _shaped(grads: Sequence[Tensor], shapes: Sequence[torch.Size], wanted: Sequence[bool]) -> list[Tensor | None]:
    """The wanted ones of gradients [B, M] in their features' shapes."""
    which = zip(grads, shapes, wanted, strict=True)
    return [None if not want else g if len(shape) == 2 else g.view(shape) for g, shape, want in which]


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    wants_x, wants_x_prime = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
    of_x: list[Tensor | None] = [None] * len(wants_x)
    of_x_prime: list[Tensor | None] = [None] * len(wants_x_prime)
    if grad is not None:
        if not ctx.save_signs:
            raise RuntimeError(
                "feature_matching: save_signs: expected True where a gradient is wanted, got False in the forward"
            )
        needs_x, needs_x_prime = any(wants_x), any(wants_x_prime)
        grads = call(
            "feature_matching_backward",
            grad,
            *ctx.saved_tensors,
            [math.prod(shape[1:]) for shape in ctx.shapes],
            ctx.batch,
            ctx.dtype,
            ctx.norm,
            ctx.batch_reduction,
            ctx.halves,
            needs_x,
            needs_x_prime,
        )
        if needs_x:
            of_x = _shaped(grads[: ctx.levels], ctx.shapes, wants_x)
        if needs_x_prime:
            of_x_prime = _shaped(grads[-ctx.levels :], ctx.shapes_prime, wants_x_prime)
    return of_x, of_x_prime, None, None, None, None


_library.register(
    "feature_matching",
    reference=reference.forward,
    launcher="ldp_fast.kernels.feature_matching:forward",
    native=_native,
    fake=_forward_outputs,
)
_library.register_autograd("feature_matching", _backward, _setup_context)
_library.register(
    "feature_matching_backward",
    reference=reference.backward,
    launcher="ldp_fast.kernels.feature_matching:backward",
    native=_native_backward,
    suits=lambda grad, signs, sizes, batch, dtype, *rest: dtype == torch.float32,
    fake=_backward_outputs,
)
_library.register_no_gradient("feature_matching_backward", _library.backward_of("feature_matching"))
