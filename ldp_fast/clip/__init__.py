"""CLIP over pictures in [0, 1]: embeddings of images and captions, tokens of patches, guidance."""

from .guidance import ClipGuidance, ClipOutput, ClipStatistics
from .model import Clip
from .templates import filled, template_set, template_sets

__all__ = ["Clip", "ClipGuidance", "ClipOutput", "ClipStatistics", "filled", "template_set", "template_sets"]
