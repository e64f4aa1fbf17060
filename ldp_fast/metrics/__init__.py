"""Metrics of the paper that can be computed offline: CLIP retrieval (R-Precision) and colour saturation."""

from .colour import clipped_fraction, saturation
from .retrieval import ClipScorer, r_precision

__all__ = ["ClipScorer", "clipped_fraction", "r_precision", "saturation"]
