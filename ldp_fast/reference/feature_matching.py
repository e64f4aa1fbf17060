"""Feature matching in plain PyTorch: the definition, the CPU backend and the oracle of every test.

`feature_matching_loss` is the definition: differentiable, a few lines, and as hungry as eager code is. `forward` and
`backward` are what runs on a CPU where csrc/feature_matching does not. They hold the same numbers in pieces that fit a
core's cache, so that no float32 copy of a half-precision level ever exists, and keep two bits an element for the
backward instead of the features.

The packed signs (one layout for every backend; a test compares them bit for bit with the kernel's)
    A sample of a level is its M elements in memory order, padded with zeros to whole blocks of 8192 elements. A block
    is ROWS x COLS elements; its word c holds the codes of the elements r * COLS + c, r = 0 ... ROWS - 1, at the bits
    2r and 2r + 1. A code is the sign in two's complement: 0, 1, -1, and -2 for NaN. A word is as wide as an element,
    so ROWS = 4 * itemsize and COLS = 2048 / itemsize. Blocks follow each other by level, sample, position: [blocks,
    COLS].

B: samples. L: levels. M: elements of one sample of a level (C * H * W).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 8192
WORD_DTYPES = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = 32 * BLOCK


def feature_matching_loss(
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor],
    *,
    norm: str = "mean",
    batch_reduction: str = "mean",
    nonfinite: str = "propagate",
) -> Tensor:
    """The sum over levels of ‖x_l - x'_l‖₁, written as one would in eager PyTorch (the L_FM of Eq. 2 to 4).

    Args:
        features: L tensors x_l [B, ...].
        features_prime: L tensors x'_l of the same shapes.
        norm: "mean" divides each level by its M, "sum" does not.
        batch_reduction: "mean" divides by B, "sum" does not.
        nonfinite: "zero" drops the elements whose difference is not finite; anything else keeps them.

    Returns:
        A scalar, float32 (float64 for float64 features), differentiable in both lists.
    """
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    batch = features[0].shape[0]
    loss = torch.zeros((), dtype=dtype, device=features[0].device)
    for x, x_prime in zip(features, features_prime, strict=True):
        difference = x.to(dtype) - x_prime.to(dtype)
        if nonfinite == "zero":
            difference = torch.where(difference.isfinite(), difference, torch.zeros_like(difference))
        size = difference[0].numel() if batch else 0
        # |d| as d sign(d): PyTorch's sign(NaN), and with it the gradient of abs, is 0, which would hide a NaN.
        sign = torch.where(difference.isnan(), difference, difference.sign()).detach()
        loss = loss + (difference * sign).sum() / (max(size, 1) if norm == "mean" else 1)
    return loss / (max(batch, 1) if batch_reduction == "mean" else 1)


def forward(
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor],
    norm: str,
    batch_reduction: str,
    nonfinite: str,
    save_signs: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, statistics and packed signs in one pass over the features.

    Args:
        features: L tensors [B, M_l] whose rows are dense (any distance between rows), or contiguous ones [B, ...];
            [2B, M_l], x above x', when `features_prime` is empty.
        features_prime: L tensors [B, M_l], or nothing.
        norm: "mean" or "sum" over the elements of a sample.
        batch_reduction: "mean" or "sum" over the samples.
        nonfinite: "zero" drops the elements whose difference is not finite; anything else keeps them.
        save_signs: whether the packed signs are wanted.

    Returns:
        The loss []; the mean |x - x'| of each level and sample [L, B]; the number of non-finite differences [L, B]
        int32; the packed signs [blocks, COLS] (no rows without `save_signs`). Deterministic.
    """
    pairs = _pairs(features, features_prime)
    first = pairs[0][0]
    batch, sizes = first.shape[0], [x.shape[1] for x, _ in pairs]
    dtype = torch.promote_types(first.dtype, torch.float32)
    columns = 2048 // first.element_size()
    blocks = batch * sum(-(-size // BLOCK) for size in sizes) if save_signs else 0

    signs = first.new_empty((blocks, columns), dtype=WORD_DTYPES[first.element_size()])
    level_values = first.new_zeros((len(pairs), batch), dtype=dtype)
    counts = first.new_zeros((len(pairs), batch), dtype=torch.int32)
    loss = first.new_zeros((), dtype=dtype)
    weights = _weights(sizes, batch, norm, batch_reduction)

    start = 0
    for level, (x, x_prime) in enumerate(pairs):
        per_sample = -(-sizes[level] // BLOCK)
        words = signs[start : start + batch * per_sample].view(batch, per_sample, columns) if save_signs else None
        start += batch * per_sample
        for rows, where in _pieces(batch, sizes[level]):
            difference = x[rows, where].to(dtype) - x_prime[rows, where].to(dtype)
            finite = (difference - difference) == 0  # two passes over the piece; isfinite takes four
            counts[level, rows] += (where.stop - where.start) - finite.sum(1, dtype=torch.int32)
            if nonfinite == "zero":
                difference.masked_fill_(~finite, 0)
            if words is not None:
                _pack(difference, words[rows, where.start // BLOCK : -(-where.stop // BLOCK)])
            level_values[level, rows] += difference.abs_().sum(1)
        loss += weights[level] * level_values[level].sum()
        level_values[level] /= max(sizes[level], 1)
    return loss, level_values, counts, signs


def backward(
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
    """The gradients, sign(x - x') times the weight of the level times `grad`, from the packed signs alone.

    Args:
        grad: the gradient of the loss [].
        signs: packed signs [blocks, COLS] of `forward`.
        sizes: M of each level.
        batch: B.
        dtype: the features' dtype, which the gradients get.
        norm: as in `forward`.
        batch_reduction: as in `forward`.
        halves: whether the features were the halves of one tensor.
        needs_features: whether the gradients of the x_l are wanted.
        needs_features_prime: whether the gradients of the x'_l are wanted.

    Returns:
        For halves L tensors [2B, M_l]; else the wanted ones of L tensors [B, M_l] for x and L for x', in this order.
    """
    outputs, halves_of = allocate_gradients(signs, sizes, batch, dtype, halves, needs_features, needs_features_prime)
    weights = _weights(sizes, batch, norm, batch_reduction)
    columns, start = signs.shape[1], 0
    for size, weight, (grad_x, grad_x_prime) in zip(sizes, weights, halves_of, strict=True):
        per_sample = -(-size // BLOCK)
        words = signs[start : start + batch * per_sample].view(batch, per_sample, columns)
        start += batch * per_sample
        scale = grad.to(torch.promote_types(dtype, torch.float32)) * weight
        for rows, where in _pieces(batch, size):
            values = unpack(words[rows, where.start // BLOCK : -(-where.stop // BLOCK)], scale.dtype)
            values = values[:, : where.stop - where.start].mul_(scale).to(dtype)
            if grad_x is not None:
                grad_x[rows, where] = values
            if grad_x_prime is not None:
                torch.neg(values, out=grad_x_prime[rows, where])
    return outputs


def allocate_gradients(
    like: Tensor,
    sizes: Sequence[int],
    batch: int,
    dtype: torch.dtype,
    halves: bool,
    needs_features: bool,
    needs_features_prime: bool,
) -> tuple[list[Tensor], list[tuple[Tensor | None, Tensor | None]]]:
    """The tensors that `backward` returns, and for each level the views of them that belong to x and to x'."""
    if halves:
        both = [like.new_empty((2 * batch, size), dtype=dtype) for size in sizes]
        return both, [(whole[:batch], whole[batch:]) for whole in both]
    of_x = [like.new_empty((batch, size), dtype=dtype) for size in sizes if needs_features]
    of_x_prime = [like.new_empty((batch, size), dtype=dtype) for size in sizes if needs_features_prime]
    nothing = [None] * len(sizes)
    return of_x + of_x_prime, list(zip(of_x or nothing, of_x_prime or nothing, strict=True))


def row_size(x: Tensor) -> int:
    """M of [B, M] or [B, ...]."""
    return x.shape[1] if x.dim() == 2 else math.prod(x.shape[1:])


def _pairs(features: Sequence[Tensor], features_prime: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    features, features_prime = [x.flatten(1) for x in features], [x.flatten(1) for x in features_prime]
    if features_prime:
        return list(zip(features, features_prime, strict=True))
    return [(x[: x.shape[0] // 2], x[x.shape[0] // 2 :]) for x in features]


def _weights(sizes: Sequence[int], batch: int, norm: str, batch_reduction: str) -> list[float]:
    per_batch = 1.0 / max(batch, 1) if batch_reduction == "mean" else 1.0
    return [per_batch / max(size, 1) if norm == "mean" else per_batch for size in sizes]


def _pieces(batch: int, size: int) -> list[tuple[slice, slice]]:
    """Slices (samples, elements) of about `_PIECE` elements that cover [batch, size] in whole blocks."""
    if size == 0:
        return []
    samples = max(_PIECE // size, 1)
    return [
        (slice(row, min(row + samples, batch)), slice(column, min(column + _PIECE, size)))
        for row in range(0, batch, samples)
        for column in range(0, size, _PIECE)
    ]


def _pack(difference: Tensor, words: Tensor) -> None:
    """Write the signs of `difference` [b, m] into `words` [b, ceil(m / BLOCK), COLS]."""
    samples, per_sample, columns = words.shape
    codes = (difference > 0).view(torch.int8) - (difference < 0).view(torch.int8)
    codes.sub_((difference != difference).view(torch.int8), alpha=2).bitwise_and_(3)
    if codes.shape[1] < per_sample * BLOCK:
        codes = torch.nn.functional.pad(codes, (0, per_sample * BLOCK - codes.shape[1]))
    # Byte k of a word holds the rows 4k to 4k + 3, and bytes are the cheapest to work on.
    codes = codes.view(samples, per_sample, words.element_size(), 4, columns)
    packed = codes[:, :, :, 0].clone()
    for row in range(1, 4):
        packed |= codes[:, :, :, row] << (2 * row)
    _bytes(words).copy_(packed)


def unpack(words: Tensor, dtype: torch.dtype) -> Tensor:
    """The signs in `words` [b, n, COLS] as numbers [b, n * BLOCK]; NaN where the difference was NaN."""
    shifts = torch.arange(6, -2, -2, dtype=torch.int8, device=words.device)
    codes = (_bytes(words).contiguous().unsqueeze(3) << shifts[:, None]) >> 6
    codes = codes.flatten(1)
    return codes.to(dtype).masked_fill_(codes == -2, float("nan"))


def _bytes(words: Tensor) -> Tensor:
    """`words` [b, n, COLS] as bytes [b, n, itemsize, COLS], the lowest first; a view."""
    return words.view(torch.int8).unflatten(-1, (words.shape[-1], words.element_size())).transpose(2, 3)
