"""`VoxelField`: density and latents at the vertices of a grid, without a network."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..reference.hash_grid import WRAPPED, GridLayout, live_rows
from ..reference.latent_field import blob, to_unit
from .fields import MOST_CHANNELS, Blob, Field, find_blob

# A Gaussian as narrow as this leaves 98 % of a vertex's gradient where it is.
SHARP = 0.3


class VoxelField(Field):
    """A dense grid of density and latents, interpolated trilinearly: the voxel field of SJC, without a network.

    density = scale · softplus(σ + shift), σ the interpolated first feature; latents are the others. Vertices stand on
    the ends of the box (SJC's stand half a voxel inside, with zeros around). The grid is the dense case of the hash
    grid's operators: float32 gradients, bit-equal where theirs are.

    Args:
        resolution: vertices along an axis, 2 to 512.
        channels: C, 1 to 15.
        bound: half the side of the box.
        density_shift: added before the softplus; SJC's −10 makes space nearly empty at first.
        density_bias: "none", "blob" or a Blob, added to σ.
        density_scale: factor of the density (SJC: 1); a larger one makes space opaque after fewer steps.
        latent_scale: standard deviation of the first latents.

    Attributes:
        table: [entries, 1 + C] parameter; entry x + R·(y + R·z).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        resolution: int = 100,
        channels: int = 4,
        *,
        bound: float = 1.0,
        density_shift: float = -10.0,
        density_bias: str | Blob | None = "none",
        density_scale: float = 1.0,
        latent_scale: float = 1.0,
    ):
        super().__init__()
        name = "VoxelField"
        self.resolution = checks.whole(name, "resolution", resolution, 2, 512)
        self.channels = checks.whole(name, "channels", channels, 1, MOST_CHANNELS)
        self.bound = checks.number(name, "bound", bound, 0.0, open_low=True)
        self.density_shift = checks.number(name, "density_shift", density_shift)
        self.blob = find_blob(name, density_bias)
        self.density_scale = checks.number(name, "density_scale", density_scale, 0.0, open_low=True)
        checks.number(name, "latent_scale", latent_scale, 0.0)
        entries = -(-(self.resolution**3) // 8) * 8
        table = torch.randn(entries, 1 + self.channels) * latent_scale
        table[:, 0] = 0
        self.table = nn.Parameter(table)

    @property
    def layout(self) -> GridLayout:
        """The layout, as the operators take it: one dense level with vertices on the ends."""
        return GridLayout([0, len(self.table)], [self.resolution], [self.resolution - 1.0], 0.0, WRAPPED, False)

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Density and channels, as `LatentField.forward`."""
        checks.positions("VoxelField", positions, self.table)
        unit = to_unit(positions, self.bound)
        features = torch.ops.ldp_fast.hash_grid(unit.contiguous(), self.table, None, count, *self.layout)
        sigma = features[:, 0] + blob(positions, self.blob.strength, self.blob.std)
        density = self.density_scale * F.softplus(sigma + self.density_shift)
        if count is not None:
            density = torch.where(live_rows(positions, count)[:, 0], density, 0)
        return density, features[:, 1:]

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser."""
        return [{"params": [self.table], "lr": lr}]

    @torch.no_grad()
    def smooth_gradient(self, std: float) -> None:
        """Convolves the table's gradient with a Gaussian, in place, so that neighbouring vertices move together.

        A voxel alone gets a noisy gradient from few rays, and an optimiser like Adamax gives it as large a step as a
        sure one. With a width that falls to 0 over a run an object is carved from coarse to fine. Outside of the grid
        the gradient counts as 0.

        Args:
            std: of the Gaussian, in voxels, cut off after three of them; below `SHARP` nothing changes.

        Raises:
            ValueError: it is not a number of 0 to the resolution.
        """
        name = "VoxelField.smooth_gradient"
        if checks.number(name, "std", std, 0.0) > self.resolution:
            checks.fail(name, "std", f"at most the resolution, {self.resolution}", f"{std:g}")
        if self.table.grad is None or std < SHARP:
            return
        side, reach = self.resolution, math.ceil(3 * std)
        away = torch.arange(-reach, reach + 1, device=self.table.device, dtype=self.table.dtype)
        kernel = torch.softmax(-0.5 * (away / std) ** 2, 0)
        places = torch.arange(side, device=self.table.device)
        apart = (places[:, None] - places).abs()
        line = torch.where(apart <= reach, kernel[reach + apart.clamp(max=reach)], 0)
        # One channel after the other, as products with a banded matrix: a convolution of all takes twenty times the
        # table's memory, and on a CPU several times as long.
        for values in self.table.grad[: side**3].view(side, side, side, -1).unbind(-1):
            smooth = values
            for _ in range(3):  # each puts the first axis last
                smooth = torch.tensordot(smooth, line, dims=([0], [0]))
            values.copy_(smooth)

    def extra_repr(self) -> str:
        return f"{self.resolution}³, {self.channels} channels, bound={self.bound:g}, shift={self.density_shift:g}"
