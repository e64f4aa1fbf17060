"""Feature matching inside of a decoder's pass: levels are reduced as they are made, signs go down with the gradient."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from .. import checks
from ..losses.feature_matching import NORMS, FeatureMatchingStatistics
from .pieces import Signs


@dataclasses.dataclass
class LevelMatching:
    """L_FM of features [2B, C_ℓ, H_ℓ, W_ℓ], x above x′, level by level.

    Attributes:
        samples: B.
        norm: over a level's elements, `mean` or `sum`.
        batch_reduction: over the samples, `mean` or `sum`.
        nonfinite: `propagate`, `zero` or `raise`.
        gradients: whether the signs are wanted.
    """

    samples: int
    norm: str
    batch_reduction: str
    nonfinite: str
    gradients: bool

    def __post_init__(self) -> None:
        op = "FrozenDecoder.feature_matching"
        checks.choice(op, "norm", self.norm, NORMS)
        checks.choice(op, "batch_reduction", self.batch_reduction, checks.BATCH_REDUCTIONS)
        checks.choice(op, "nonfinite", self.nonfinite, checks.NONFINITE)
        self._losses: list[Tensor] = []
        self._values: list[Tensor] = []
        self._counts: list[Tensor] = []
        self._packed: dict[int, Tensor] = {}
        self.sizes: dict[int, int] = {}

    def add(self, index: int, features: Tensor) -> None:
        """Reduces the level made by stage `index`; of the features two bits an element remain."""
        rows = features.permute(0, 2, 3, 1).flatten(1)
        loss, values, counts, packed = torch.ops.ldp_fast.feature_matching(
            [rows], [], self.norm, self.batch_reduction, self.nonfinite, self.gradients
        )
        self._losses.append(loss)
        self._values.append(values)
        self._counts.append(counts)
        self._packed[index], self.sizes[index] = packed, rows.shape[1]

    def loss(self) -> Tensor:
        """The sum over the levels, a scalar."""
        return torch.stack(self._losses).sum()

    def statistics(self, levels: tuple[str, ...]) -> FeatureMatchingStatistics:
        """Of all levels; raises where it was asked for and something was not finite."""
        if self.nonfinite == "raise":
            named = dict(zip(levels, self._counts, strict=True))
            checks.raise_nonfinite("FrozenDecoder.feature_matching", named)
        return FeatureMatchingStatistics(torch.cat(self._values), torch.cat(self._counts))

    def signs(self, index: int, scale: float) -> Signs | None:
        """The gradient of scale·L_FM to the level that stage `index` made, once; None where that is not a level."""
        packed = self._packed.pop(index, None)
        if packed is None:
            return None
        weight = scale / self.sizes[index] if self.norm == "mean" else scale
        if self.batch_reduction == "mean":
            weight /= max(self.samples, 1)
        return Signs(packed, weight, self.samples)
