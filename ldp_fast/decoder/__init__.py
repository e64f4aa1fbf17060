"""The frozen decoder: the part of a VAE that feature matching looks into."""

from .frozen import FrozenDecoder

__all__ = ["FrozenDecoder"]
