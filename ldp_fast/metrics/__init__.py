"""Metrics: retrieval and score by CLIP, FID, KID, LPIPS, colour, renderings, truth.

Weights of Inception, AlexNet and VGG16 are never downloaded. A CLIP or a VAE that is named by a hub name is fetched
where the cache does not have it.
"""

from .clip_score import clip_cosines, clip_scores
from .colour import clipped_fraction, saturation
from .features import ClipFeatures, InceptionFeatures
from .frechet import fid, kid
from .lpips import Lpips, all_pairs, pairwise
from .prompts import object_centric_coco
from .rendering import normal_noise, outline_fog
from .retrieval import ClipScorer, bootstrap_interval, judge_of, n_way, r_precision

__all__ = [
    "ClipFeatures",
    "ClipScorer",
    "InceptionFeatures",
    "Lpips",
    "all_pairs",
    "bootstrap_interval",
    "clip_cosines",
    "clip_scores",
    "clipped_fraction",
    "fid",
    "judge_of",
    "kid",
    "n_way",
    "normal_noise",
    "object_centric_coco",
    "outline_fog",
    "pairwise",
    "r_precision",
    "saturation",
]
