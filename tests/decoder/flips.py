"""How far two runs of feature matching may be apart because features that nearly agree have another sign in each.

The gradient is a sum of w · sign(x − x′) through the decoder's Jacobian J. A run's features deviate from the exact ones
by at most δ, so its sign can be another than the exact one only where |x − x′| ≤ δ, and two runs can disagree only
there: in U. Where element i does disagree, the gradient differs by 2w · Jᵢ. Which elements do is as good as random,
with random signs z, so

    ‖difference‖² = ‖Σ_{i ∈ flipped} 2w zᵢ Jᵢ‖²,   whose mean is at most   Σ_{i ∈ U} ‖2w Jᵢ‖² = mean ‖Jᵀ (2w z on U)‖²

and the right side is what a few draws of z on U estimate. δ is not chosen: it is measured, as the deviation of the
run's own x − x′ from float64, by the factor that tests/support/tolerances.py gives another run of the same precision.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder

from ..support.tolerances import OUTPUT

DRAWS = 4
# In standard deviations: the flipped are one draw, and the estimate is of few.
ALLOWED = 3.0


@dataclass(frozen=True)
class Flips:
    """What may differ.

    Attributes:
        elements: of the levels, how many may have either sign.
        share: the same as a part of all.
        grad_v, grad_v_prime: the norms that their flips can add to the difference of two runs' gradients.
    """

    elements: int
    share: float
    grad_v: float
    grad_v_prime: float


def flips(decoder: FrozenDecoder, exact: FrozenDecoder, v: Tensor, v_prime: Tensor) -> Flips:
    """For `decoder.feature_matching(v, v_prime)` with its defaults.

    Args:
        decoder: in the precision of the runs.
        exact: the same in float64.
        v, v_prime: [B, C, h, w].
    """
    leaves = [x.detach().double().requires_grad_() for x in (v, v_prime)]
    truths = [exact.features(x) for x in leaves]
    with torch.no_grad():
        found = [decoder.features(x) for x in (v, v_prime)]
        undecided, weights = [], []
        for x, y, a, b in zip(*truths, *found, strict=True):
            exactly = x - y
            deviation = OUTPUT * float(((a.double() - b.double()) - exactly).abs().max())
            undecided.append(exactly.abs() <= deviation)
            weights.append(2.0 / x.numel())  # a mean over a level's elements and over the samples
    squares = [0.0, 0.0]
    for draw in range(DRAWS):
        generator = torch.Generator("cpu").manual_seed(draw)
        z = [
            w * (2.0 * torch.randint(0, 2, m.shape, generator=generator).double().to(m.device) - 1.0) * m
            for w, m in zip(weights, undecided, strict=True)
        ]
        for i, (features, leaf) in enumerate(zip(truths, leaves, strict=True)):
            (grad,) = torch.autograd.grad(features, leaf, z, retain_graph=True)
            squares[i] += float(grad.square().sum()) / DRAWS
    elements, total = sum(int(m.sum()) for m in undecided), sum(m.numel() for m in undecided)
    return Flips(elements, elements / total, *(ALLOWED * s**0.5 for s in squares))


def assert_same_but_for_flips(one: Tensor, other: Tensor, added: float, *, rounding: float) -> None:
    """Asserts that two gradients are as near as rounding, relative to their size, and flips allow."""
    difference, size = float((one.double() - other.double()).norm()), float(other.double().norm())
    assert difference <= rounding * size + added, f"{difference / size:.1e} apart; flips allow {added / size:.1e}"
