"""The inputs of the hash grid's operators, and the layouts they are tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ldp_fast.reference.hash_grid import HASHED, TILED, WRAPPED, GridLayout


@dataclass(frozen=True)
class Grid:
    """A layout by its definition: n_levels of them from base_resolution on, each `growth` times the one before."""

    n_levels: int = 4
    n_features: int = 2
    log2_table_size: int = 9
    base_resolution: int = 4
    growth: float = 1.7
    shift: float = 0.5
    indexing: int = HASHED
    smoothstep: bool = False

    def layout(self) -> GridLayout:
        """The arguments of the operators."""
        if self.shift == 0.0:  # one level with its vertices on the ends: a voxel grid
            resolution = self.base_resolution
            scales = [resolution - 1.0]
            return GridLayout([0, resolution**3], [resolution], scales, 0.0, self.indexing, self.smoothstep)
        offsets, resolutions, scales = [0], [], []
        most = self.base_resolution**3 if self.indexing == TILED else 2**self.log2_table_size
        for level in range(self.n_levels):
            scale = self.base_resolution * self.growth**level - 1.0
            scale = float(torch.tensor(scale, dtype=torch.float32))
            resolution = int(-(-scale // 1)) + 1
            vertices = (resolution**3 + 7) // 8 * 8
            offsets.append(offsets[-1] + min(vertices, most))
            resolutions.append(resolution)
            scales.append(scale)
        return GridLayout(offsets, resolutions, scales, self.shift, self.indexing, self.smoothstep)


GRIDS = {
    "hashed": Grid(),
    "smoothstep": Grid(smoothstep=True),
    "wrapped": Grid(indexing=WRAPPED),
    "tiled": Grid(indexing=TILED),  # 64 entries a level; 7 to 20 vertices along an axis
    "tiled_in_27": Grid(indexing=TILED, base_resolution=3, smoothstep=True),  # no power of two
    "dense": Grid(n_levels=2, log2_table_size=14),
    "one_feature": Grid(n_features=1),
    "four_features": Grid(n_features=4),
    "eight_features": Grid(n_features=8),
    "three_features": Grid(n_features=3),
    "voxels": Grid(n_levels=1, n_features=5, base_resolution=6, shift=0.0),
    "one_level": Grid(n_levels=1, log2_table_size=5, base_resolution=64),
    "levels_over_levels": Grid(n_levels=32, log2_table_size=3, growth=1.1, n_features=1),
}


def inputs(
    grid: Grid,
    size: int = 37,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    rays: bool = False,
    count: int | None = None,
) -> dict[str, Any]:
    """Returns positions, table, count, grad (of the encoding) and layout.

    Args:
        grid: the layout.
        size: S.
        dtype: of positions, table and grad; the numbers are those of float32.
        device: of all.
        seed: of the numbers.
        rays: whether samples follow one another along rays of 16.
        count: rows that are there.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    layout = grid.layout()
    positions = draw(size, 3)
    if rays:
        start, end = draw(size // 16 + 1, 1, 3), draw(size // 16 + 1, 1, 3)
        positions = (start + (end - start) * (torch.arange(16) / 16)[None, :, None]).reshape(-1, 3)[:size].contiguous()
    table = draw(layout.offsets[-1], grid.n_features) - 0.5
    grad = draw(size, len(layout.resolutions) * grid.n_features) - 0.5
    tensors = {"positions": positions, "table": table, "grad": grad}
    made: dict[str, Any] = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    made["count"] = None if count is None else torch.tensor([count], device=device)
    made["layout"] = layout
    return made


def arguments(name: str, grid: Grid, **options: Any) -> tuple[Any, ...]:
    """Returns the positional arguments of `torch.ops.ldp_fast.<name>`, differentiable ones requiring a gradient."""
    made = inputs(grid, **options)
    positions, table, grad = (made[key].requires_grad_() for key in ("positions", "table", "grad"))
    count, layout = made["count"], made["layout"]
    if name == "hash_grid":
        return positions, table, None, count, *layout
    if name == "hash_grid_backward_table":
        return grad, positions, count, *table.shape, *layout, False
    if name == "hash_grid_backward_positions":
        return grad, positions, table, None, count, *layout
    grad_out = torch.linspace(-1, 1, positions.numel()).to(positions).view(positions.shape)
    return grad_out, grad.detach(), positions.detach(), table.detach(), None, count, *layout
