"""The renderer of text-to-3D."""

from .optimiser import FusedAdam

__all__ = ["FusedAdam"]
