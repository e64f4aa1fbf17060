"""CLIP-Mesh: a textured mesh that is optimised by CLIP through a differentiable rasteriser (docs/clip_mesh.md)."""
