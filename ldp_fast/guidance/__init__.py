"""The latent diffusion prior: conventions, schedule, prompts, presets; loss mode and gradient mode."""

from .capture import CapturedStep
from .outputs import PriorOutput, PriorStatistics
from .precision import Precision
from .presets import PRESETS, PriorSettings
from .prior import LatentDiffusionPrior
from .schedule import Schedule, TimestepSampler
from .text import TextEmbeddings

__all__ = [
    "PRESETS",
    "CapturedStep",
    "LatentDiffusionPrior",
    "Precision",
    "PriorOutput",
    "PriorSettings",
    "PriorStatistics",
    "Schedule",
    "TextEmbeddings",
    "TimestepSampler",
]
