"""How far a result may be from the truth: the yardstick is what plain PyTorch does in the same dtype.

The rule: against float64, the error of an operator is at most twice (outputs) or three times (gradients) that of the
textbook PyTorch code in the same dtype, plus a few units in the last place, for the textbook code is sometimes exact by
luck. No test sets a tolerance of its own.

The angle between result and truth is judged by its tangent, not its cosine. Let t be the truth at length 1 and
t + d a result; d = a t + p splits the error into a part along the truth and one across it. Then

    tan θ = |p| / (1 + a),   1 − cos θ = |p|²/2 + O(|p|² |d|).

If an error d′ may be f times as large, plus something g of length φ (the floor), then p′ = f p + g's part across, and

    |p′| ≤ f |p| + φ,   that is   1 − cos θ′ ≤ f² (1 − cos θ) + f φ √(2 (1 − cos θ)) + φ²/2

to leading order: 1 − cos grows with the square of the factor, and the floor counts by its square and a cross term. The
left form is exact, has no roundings of 1 − cos, and is what is asserted, as `across`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

OUTPUT, GRADIENT = 2.0, 3.0
FLOOR_ULPS = 4.0


@dataclass(frozen=True)
class Error:
    """The error of a result against float64.

    Attributes:
        largest: the largest difference, relative to the truth's largest element.
        l2: the norm of the difference, relative to the truth's norm.
        across: the norm of the difference's part at right angles to the truth, relative to the truth's norm. 1 − cosine
            of the angle between both is half its square.
        bias: the mean signed difference, relative to the truth's mean magnitude.
    """

    largest: float
    l2: float
    across: float
    bias: float


def measure(result: Tensor, truth: Tensor) -> Error:
    """Measures a result against the float64 truth; both have to be finite."""
    x, t = result.detach().double().cpu().flatten(), truth.detach().double().cpu().flatten()
    if x.numel() == 0:
        return Error(0.0, 0.0, 0.0, 0.0)
    difference = x - t
    tiny = torch.finfo(torch.float64).tiny
    norm, magnitude = t.norm().clamp(min=tiny), t.abs().mean().clamp(min=tiny)
    unit = t / norm
    return Error(
        float(difference.abs().max() / t.abs().max().clamp(min=tiny)),
        float(difference.norm() / norm),
        float((difference - (difference @ unit) * unit).norm() / norm),
        float(difference.mean() / magnitude),
    )


def assert_close(
    result: Tensor, eager: Tensor, truth: Tensor, *, factor: float = OUTPUT, what: str = "", condition: float = 1.0
) -> None:
    """Asserts that a result is as near to the truth as the textbook code is, up to `factor`.

    Args:
        result: of the operator.
        eager: of the textbook code, in the dtype of the inputs.
        truth: of the textbook code, in float64.
        factor: `OUTPUT` or `GRADIENT`.
        what: named in the message.
        condition: size of the terms of a sum over the size of what is left of them, where they cancel: no arithmetic in
            the dtype can do better than a few units in the last place of the terms. From the float64 truth, at least 1.
    """
    assert result.shape == truth.shape, f"{what}: shape {list(result.shape)}, expected {list(truth.shape)}"
    assert torch.equal(result.isfinite().cpu(), truth.isfinite().cpu()), f"{what}: not finite where the truth is"
    # A result in a wider dtype than the textbook's is held to the textbook's all the same.
    ulp = max(torch.finfo(result.dtype).eps, torch.finfo(torch.float32).eps if result.dtype != torch.float64 else 0.0)
    # Where the textbook code overflows it says nothing, and only the floor remains.
    ours, theirs = measure(result, truth), measure(eager if eager.isfinite().all() else truth, truth)
    floor = FLOOR_ULPS * ulp * max(condition, 1.0)
    assert ours.largest <= factor * theirs.largest + floor, f"{what}: largest error {ours} against {theirs}"
    assert ours.l2 <= factor * theirs.l2 + floor, f"{what}: L2 error {ours} against {theirs}"
    assert abs(ours.bias) <= factor * max(abs(theirs.bias), theirs.l2) + floor, f"{what}: bias {ours} against {theirs}"
    assert ours.across <= factor * theirs.across + floor, f"{what}: angle {ours} against {theirs}"
