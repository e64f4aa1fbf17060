"""CLIP over pictures in [0, 1]: embeddings of images and captions, tokens of patches, templates of prompts."""

from .model import Clip

__all__ = ["Clip"]
