"""Feature matching between the decoder features of v and of v' (paper §3.2, L_FM in Eq. 2 to 4).

B: samples. L: levels. C_l, H_l, W_l: channels, height and width of level l; M_l = C_l H_l W_l.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from .. import checks
from ..checks import BatchReduction, NonFinite
from ..ops import call
from . import _signatures

_OP = "feature_matching_loss"
Norm = Literal["mean", "sum"]
NORMS = get_args(Norm)
_LISTS = (list, tuple)
# Contiguous and channels-last first: they are what there is, and torch.compile cannot sort by symbolic strides.
_ORDERS = ((1, 2, 3), (2, 3, 1), (1, 3, 2), (2, 1, 3), (3, 1, 2), (3, 2, 1))


class FeatureMatchingStatistics(NamedTuple):
    """What the forward pass learnt about each level and sample; device tensors without a graph.

    Attributes:
        level_values: mean |x - x'| whatever `norm` is, so that it can be compared across resolutions
            # [L, B] float32 (float64 for float64 features)
        nonfinite: number of elements whose difference is infinite or NaN  # [L, B] int32
    """

    level_values: Tensor
    nonfinite: Tensor


def feature_matching_loss(
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor] | None,
    *,
    norm: Norm = "mean",
    batch_reduction: BatchReduction = "mean",
    nonfinite: NonFinite = "propagate",
    return_statistics: bool = False,
) -> Tensor | tuple[Tensor, FeatureMatchingStatistics]:
    """The distance of two sets of features, L_FM = Σ_l ‖x_l - x'_l‖₁ (Eq. 2 to 4), in one launch over all levels.

    The gradient is ∂L/∂x = s and ∂L/∂x' = -s with s = sign(x - x'), times 1/M_l for norm="mean", 1/B for
    batch_reduction="mean", and the incoming gradient. sign(0) = 0, sign(±∞) = ±1, sign(NaN) = NaN. Both lists get
    gradients; a list in which nothing requires one is not written. Between the passes two bits an element are kept and
    none of the features. It can be differentiated once.

    Any dense layout is read in place (contiguous, channels-last, any distance between the samples), and the gradient
    comes in the same memory format. Where x_l and x'_l differ in layout, or one is not dense, it is copied to the
    layout of the other; x_l decides if both are dense, and contiguous is taken if neither is.

    Args:
        features: L tensors x_l, float16, bfloat16, float32 or float64, one dtype for all  # [B, C_l, H_l, W_l]
        features_prime: L tensors x'_l  # [B, C_l, H_l, W_l]
            or None: then each entry of `features` holds x_l above x'_l  # [2B, C_l, H_l, W_l]
            is read in place and gets its gradient as one tensor, with nothing to split or concatenate.
        norm: over the elements of a sample: "mean" divides by M_l, "sum" is the norm as printed.
        batch_reduction: over the samples. The mean over an empty batch is 0.
        nonfinite: an element whose difference is infinite or NaN shows in loss and gradient ("propagate"), adds nothing
            to either ("zero"), or raises ("raise"; this reads the counts, so it waits for the device, and neither a
            CUDA graph nor a compiled full graph can hold it). The statistics count such elements in every case.
        return_statistics: also return `FeatureMatchingStatistics`.

    Returns:
        A scalar, float32 (float64 for float64 features), or (scalar, statistics). Arithmetic is of the same precision,
        also under autocast. Bitwise reproducible. A float16 gradient is below float16's range once 1/M_l is: use
        norm="sum", or scale the loss.

    Raises:
        TypeError: an entry is not a floating tensor, or its dtype is not that of the others.
        ValueError: no levels, lists of different lengths, a shape, device or option that does not fit.
        FloatingPointError: with nonfinite="raise", naming the levels and counts.
        RuntimeError: when differentiated twice.
    """
    key = _signature(features, features_prime, norm, batch_reduction, nonfinite)
    if not _signatures.passed(key):
        _check(features, features_prime, norm, batch_reduction, nonfinite)
        _signatures.remember(key)
    tensors = features if features_prime is None else (*features, *features_prime)
    save_signs = torch.is_grad_enabled() and any([x.requires_grad for x in tensors])
    rows: list[Tensor] = []
    rows_prime: list[Tensor] = []
    for level, x in enumerate(features):
        x_prime = None if features_prime is None else features_prime[level]
        order = _memory_order(x)
        if order is None and x_prime is not None:
            order = _memory_order(x_prime)
        rows.append(_rows(x, order))
        if x_prime is not None:
            rows_prime.append(_rows(x_prime, order))
    loss, level_values, counts, _ = call(
        "feature_matching", rows, rows_prime, norm, batch_reduction, nonfinite, save_signs
    )
    if nonfinite == "raise":
        checks.raise_nonfinite(_OP, {f"level {level}": count for level, count in enumerate(counts)})
    if return_statistics:
        return loss, FeatureMatchingStatistics(level_values.detach(), counts)
    return loss


class FeatureMatchingLoss(nn.Module):
    """`feature_matching_loss` with its options fixed, as a module.

    Args:
        norm: "mean" or "sum" over the elements of a sample.
        batch_reduction: "mean" or "sum" over the samples.
        nonfinite: "propagate", "zero" or "raise".

    Raises:
        ValueError: an unknown option.

    Examples:
        >>> import torch
        >>> from ldp_fast.losses import FeatureMatchingLoss
        >>> features = [torch.zeros(1, 8, 4, 4), torch.zeros(1, 4, 8, 8)]  # two levels of a decoder
        >>> FeatureMatchingLoss()(features, [x + 0.5 for x in features])  # ½ + ½
        tensor(1.)
    """

    def __init__(
        self,
        *,
        norm: Norm = "mean",
        batch_reduction: BatchReduction = "mean",
        nonfinite: NonFinite = "propagate",
    ) -> None:
        super().__init__()
        _check_options("FeatureMatchingLoss", norm, batch_reduction, nonfinite)
        self.norm, self.batch_reduction, self.nonfinite = norm, batch_reduction, nonfinite

    def forward(self, features: Sequence[Tensor], features_prime: Sequence[Tensor] | None = None) -> Tensor:
        """The loss of two lists of [B, C_l, H_l, W_l], or of one list of [2B, C_l, H_l, W_l]; a scalar."""
        loss = feature_matching_loss(
            features,
            features_prime,
            norm=self.norm,
            batch_reduction=self.batch_reduction,
            nonfinite=self.nonfinite,
        )
        assert isinstance(loss, Tensor)
        return loss

    def extra_repr(self) -> str:
        return f"norm={self.norm!r}, batch_reduction={self.batch_reduction!r}, nonfinite={self.nonfinite!r}"


def _memory_order(x: Tensor) -> tuple[int, int, int] | None:
    """The dimensions of a sample from the slowest to the fastest in memory; None if its elements are not dense."""
    if x.is_contiguous():
        return _ORDERS[0]
    for order in _ORDERS:
        expected = 1
        for dim in reversed(order):
            if x.shape[dim] != 1 and x.stride(dim) != expected:
                break
            expected *= x.shape[dim]
        else:
            return order
    return None


def _rows(x: Tensor, order: tuple[int, int, int] | None) -> Tensor:
    """[B, M] in the given order of dimensions, of stride 1: a view where `x` is dense in it, else a copy.

    A contiguous tensor is that as it is, and one in another order once its dimensions are permuted.
    """
    if order in _ORDERS[:1] and x.is_contiguous():
        return x
    rows = x.flatten(1) if order in (None, (1, 2, 3)) else x.permute(0, *order).flatten(1)
    # Every other column of an image flattens to a view too, of stride 2.
    return rows if rows.shape[1] == 1 or rows.stride(1) == 1 else rows.contiguous()


def _check_options(op: str, norm: str, batch_reduction: str, nonfinite: str) -> None:
    checks.choice(op, "norm", norm, NORMS)
    checks.choice(op, "batch_reduction", batch_reduction, checks.BATCH_REDUCTIONS)
    checks.choice(op, "nonfinite", nonfinite, checks.NONFINITE)


def _signature(features: Any, features_prime: Any, *options: str) -> tuple[Any, ...] | None:
    """What the checks look at; None where it is not two lists."""
    if type(features) not in _LISTS or not (features_prime is None or type(features_prime) in _LISTS):
        return None
    return _signatures.signature(
        _OP, len(features), *options, *features, *(features_prime or ()), features_prime is None
    )


def _check(
    features: Sequence[Tensor],
    features_prime: Sequence[Tensor] | None,
    norm: str,
    batch_reduction: str,
    nonfinite: str,
) -> None:
    _check_options(_OP, norm, batch_reduction, nonfinite)
    for argument, levels in (("features", features), ("features_prime", features_prime)):
        if levels is not None and not isinstance(levels, (list, tuple)):
            raise TypeError(f"{_OP}: {argument}: expected a list of tensors, got {type(levels).__name__}")
    if not features:
        raise ValueError(f"{_OP}: features: expected at least one level, got none")
    if features_prime is not None and len(features_prime) != len(features):
        raise ValueError(
            f"{_OP}: features_prime: expected as many levels as features, {len(features)}, got {len(features_prime)}"
        )
    for level, x in enumerate(features):
        argument = f"features[{level}]"
        checks.latents(_OP, argument, x)
        _same_kind(argument, x, features[0])
        if features_prime is not None:
            argument_prime = f"features_prime[{level}]"
            checks.like(_OP, argument_prime, features_prime[level], argument, x)
            _same_kind(argument_prime, features_prime[level], features[0])
        elif x.shape[0] % 2:
            raise ValueError(
                f"{_OP}: {argument}: expected an even batch, x above x', as features_prime is None, "
                f"got shape {checks.shape_text(x)}"
            )


def _same_kind(argument: str, x: Tensor, first: Tensor) -> None:
    if x.dtype != first.dtype:
        raise TypeError(f"{_OP}: {argument}: expected the dtype of features[0], {first.dtype}, got {x.dtype}")
    if x.shape[0] != first.shape[0]:
        raise ValueError(
            f"{_OP}: {argument}: expected the batch of features[0], {first.shape[0]}, got shape {checks.shape_text(x)}"
        )
    checks.same_device(_OP, argument, x, "features[0]", first)
