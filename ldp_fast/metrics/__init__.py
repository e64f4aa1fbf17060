"""Metrics that can be computed offline: CLIP retrieval (R-Precision), colour saturation, cleanliness of renderings."""

from .clip_score import clip_cosines, clip_score
from .colour import clipped_fraction, saturation
from .frechet import fid, kid
from .prompts import object_centric_coco
from .rendering import normal_noise, outline_fog
from .retrieval import ClipScorer, bootstrap_interval, judge_of, n_way, r_precision

__all__ = [
    "ClipScorer",
    "bootstrap_interval",
    "clip_cosines",
    "clip_score",
    "clipped_fraction",
    "fid",
    "judge_of",
    "kid",
    "n_way",
    "normal_noise",
    "object_centric_coco",
    "outline_fog",
    "r_precision",
    "saturation",
]
