"""The mesh of a run with what draws it: what is optimised, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...runs.seeds import mixed_generator
from . import rasterisers, views
from .configuration import ClipMesh
from .mesh import TexturedMesh

# What is drawn: a step's number is at least 1, so that the start is one of its own.
START = 0


class Sculpture:
    """The mesh of a run, and what draws it.

    Args:
        configuration: of the run.
        device: where.

    Raises:
        UsageError: the rasteriser is not installed.
    """

    def __init__(self, configuration: ClipMesh, device: torch.device):
        c = self.configuration = configuration
        self.device = device
        rasterisers.require(c.rasteriser)
        self.mesh = TexturedMesh(c.level, c.refinement, c.texture, c.ball, device)
        self.rasteriser = rasterisers.load(c.rasteriser, self.mesh.faces, device)
        noise = torch.rand(self.mesh.texture.shape, generator=mixed_generator(c.seed, START))
        self.mesh.texture.data.copy_(noise)

    @torch.no_grad()
    def look(self, azimuth: list[float], elevation: list[float], size: int) -> Tensor:
        """Pictures [V, 3, size, size] in [0, 1] from directions in degrees."""
        c = self.configuration
        found = [
            views.pictures(self.mesh, self.rasteriser, views.shown(c.cameras, [a], [e], size, self.device), c.light)
            for a, e in zip(azimuth, elevation, strict=True)
        ]
        return torch.cat(found)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds of it."""
        return {name: getattr(self.mesh, name).detach().cpu().clone() for name in ("control", "texture")}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """The reverse of `state`.

        Raises:
            ValueError: a tensor is missing, or of another shape.
        """
        for name in ("control", "texture"):
            held, own = tensors.get(name), getattr(self.mesh, name)
            if held is None or held.shape != own.shape:
                found = "nothing" if held is None else f"one of shape {list(held.shape)}"
                raise ValueError(f"expected {name} of shape {list(own.shape)}, got {found}")
        for name in ("control", "texture"):
            getattr(self.mesh, name).data.copy_(tensors[name])
