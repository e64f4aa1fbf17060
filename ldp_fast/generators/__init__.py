"""Generators of pictures: StyleGAN2, and the files that people have of it."""

from __future__ import annotations

from .files import load, save
from .stylegan2 import Settings, StyleGAN2, usual_channels

__all__ = ["Settings", "StyleGAN2", "load", "save", "usual_channels"]
