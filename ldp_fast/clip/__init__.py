"""CLIP over pictures in [0, 1]: embeddings of images and captions, tokens of patches, templates of prompts."""

from .model import Clip
from .templates import filled, template_set, template_sets

__all__ = ["Clip", "filled", "template_set", "template_sets"]
