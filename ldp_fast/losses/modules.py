"""The losses as modules, for hosts that keep their losses in one place; see `ldp_fast.losses.functional`."""

from __future__ import annotations

from torch import Tensor, nn

from .. import checks
from ..checks import BatchReduction, Coefficient, NonFinite
from .feature_matching import FeatureMatchingLoss
from .functional import latent_kl_loss, score_distillation_loss

__all__ = ["FeatureMatchingLoss", "LatentKLLoss", "ScoreDistillationLoss"]


class _Loss(nn.Module):
    def __init__(self, batch_reduction: BatchReduction = "mean", nonfinite: NonFinite = "propagate"):
        super().__init__()
        checks.reductions(type(self).__name__, batch_reduction, nonfinite)
        self.batch_reduction: BatchReduction = batch_reduction
        self.nonfinite: NonFinite = nonfinite

    def extra_repr(self) -> str:
        return f"batch_reduction={self.batch_reduction!r}, nonfinite={self.nonfinite!r}"


class LatentKLLoss(_Loss):
    """The KL regulariser on latents (Eq. 3); see `latent_kl_loss`.

    Args:
        batch_reduction: "mean" or "sum" over the samples.
        nonfinite: "propagate", "zero" or "raise".

    Raises:
        ValueError: an unknown option.

    Examples:
        >>> import torch
        >>> from ldp_fast.losses import LatentKLLoss
        >>> latents = torch.tensor([-1.0, 1.0]).repeat(1, 4, 16, 8)  # of mean 0 and variance 1
        >>> LatentKLLoss()(latents)
        tensor(1.)
    """

    def forward(self, latents: Tensor) -> Tensor:
        """Returns the scalar loss of latents [B, C, H, W]."""
        return latent_kl_loss(latents, batch_reduction=self.batch_reduction, nonfinite=self.nonfinite)


class ScoreDistillationLoss(_Loss):
    """Latent score distillation (Eq. 1 and 4); see `score_distillation_loss`.

    Args:
        batch_reduction: "mean" or "sum" over the samples.
        nonfinite: "propagate", "zero" or "raise".

    Raises:
        ValueError: an unknown option.

    Examples:
        The gradient is weight · residual:

        >>> import torch
        >>> from ldp_fast.losses import ScoreDistillationLoss
        >>> latents = torch.zeros(1, 4, 2, 2, requires_grad=True)
        >>> ScoreDistillationLoss()(latents, residual=torch.ones(1, 4, 2, 2), weight=0.5).backward()
        >>> latents.grad[0, 0]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """

    def forward(self, latents: Tensor, residual: Tensor, weight: Coefficient = 1.0) -> Tensor:
        """Returns the scalar loss of latents and residual [B, C, H, W], weight a number, [] or [B]."""
        return score_distillation_loss(
            latents, residual, weight, batch_reduction=self.batch_reduction, nonfinite=self.nonfinite
        )
