"""The losses of the paper and the steps between them, as functions and as modules."""

from .functional import (
    FeatureMatchingStatistics,
    GradientStatistics,
    combine_gradients,
    feature_matching_loss,
    guided_residual,
    latent_kl_loss,
    perp_neg_residual,
    perturb,
    residual_latents,
    score_distillation_loss,
)
from .modules import FeatureMatchingLoss, LatentKLLoss, ScoreDistillationLoss

__all__ = [
    "FeatureMatchingLoss",
    "FeatureMatchingStatistics",
    "GradientStatistics",
    "LatentKLLoss",
    "ScoreDistillationLoss",
    "combine_gradients",
    "feature_matching_loss",
    "guided_residual",
    "latent_kl_loss",
    "perp_neg_residual",
    "perturb",
    "residual_latents",
    "score_distillation_loss",
]
