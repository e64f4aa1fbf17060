"""Metrics that can be computed offline: CLIP retrieval (R-Precision), colour saturation, cleanliness of renderings."""

from .colour import clipped_fraction, saturation
from .frechet import fid, kid
from .rendering import normal_noise, outline_fog
from .retrieval import ClipScorer, judge_of, r_precision

__all__ = [
    "ClipScorer",
    "clipped_fraction",
    "fid",
    "judge_of",
    "kid",
    "normal_noise",
    "outline_fog",
    "r_precision",
    "saturation",
]
