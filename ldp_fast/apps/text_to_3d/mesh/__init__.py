"""A run's object as a textured mesh."""

from .mesh import export_mesh

__all__ = ["export_mesh"]
