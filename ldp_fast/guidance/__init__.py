"""The latent diffusion prior: conventions, schedule, prompts, presets; loss mode and gradient mode."""

from .outputs import PriorOutput, PriorStatistics
from .presets import PRESETS, PriorSettings
from .prior import LatentDiffusionPrior
from .schedule import Schedule, TimestepSampler
from .text import TextEmbeddings

__all__ = [
    "PRESETS",
    "LatentDiffusionPrior",
    "PriorOutput",
    "PriorSettings",
    "PriorStatistics",
    "Schedule",
    "TextEmbeddings",
    "TimestepSampler",
]
