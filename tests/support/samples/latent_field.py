"""The inputs of the latent field's operators, and the networks they are tried on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ldp_fast.reference.latent_field import FieldArguments, FieldNetwork

from .hash_grid import GRIDS, Grid


@dataclass(frozen=True)
class Field:
    """A field by its definition."""

    grid: Grid = field(default_factory=Grid)
    hidden: int = 64
    layers: int = 2
    channels: int = 4
    bias: bool = False
    sigmoid: bool = False
    blob_strength: float = 5.0
    blob_std: float = 0.2
    bound: float = 1.0

    @property
    def encoding(self) -> int:
        return (1 if self.grid.shift == 0.0 else self.grid.n_levels) * self.grid.n_features

    @property
    def n_weights(self) -> int:
        widths = [self.encoding, *[self.hidden] * self.layers, 1 + self.channels]
        return sum(o * (i + self.bias) for i, o in itertools.pairwise(widths))

    def network(self, half: bool = False) -> FieldNetwork:
        """The arguments of the operators after the bound."""
        return FieldNetwork(
            self.hidden,
            self.layers,
            self.channels,
            self.bias,
            self.sigmoid,
            self.blob_strength,
            self.blob_std,
            half,
        )


FIELDS = {
    "default": Field(),
    "latent_nerf": Field(bias=True, bound=1.5),
    "rgb": Field(channels=3, sigmoid=True, bias=True, grid=GRIDS["smoothstep"]),
    "no_blob": Field(blob_strength=0.0, hidden=32),
    "one_channel": Field(channels=1, hidden=16, layers=1, grid=GRIDS["one_feature"]),
    "most_channels": Field(channels=15, hidden=48, layers=3, grid=GRIDS["three_features"]),
    "deep": Field(layers=4, hidden=32, bias=True, grid=GRIDS["eight_features"]),
    "wide": Field(hidden=128, grid=GRIDS["four_features"]),
    "voxels": Field(hidden=16, layers=1, grid=GRIDS["voxels"]),
}


def inputs(
    made_of: Field,
    size: int = 150,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
    count: int | None = None,
) -> dict[str, Any]:
    """Returns positions, table, weights, count, grad_density, grad_latents, layout, bound and network.

    Args:
        made_of: the field.
        size: S.
        dtype: of the floating tensors; the numbers are those of float32.
        device: of all.
        seed: of the numbers.
        count: rows that are there.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * 2 - 1

    layout = made_of.grid.layout()
    tensors = {
        "positions": draw(size, 3) * made_of.bound,
        "table": draw(layout.offsets[-1], made_of.grid.n_features),
        "weights": draw(made_of.n_weights) * made_of.hidden**-0.5,
        "grad_density": draw(size),
        "grad_latents": draw(size, made_of.channels),
    }
    made: dict[str, Any] = {name: tensor.to(device, dtype) for name, tensor in tensors.items()}
    made["count"] = None if count is None else torch.tensor([count], device=device)
    return made | {"layout": layout, "bound": made_of.bound, "network": made_of.network()}


def off_faces(made: dict[str, Any], margin: float = 1e-3) -> dict[str, Any]:
    """Moves samples near a face between cells to one place inside of cells: the slope jumps at a face."""
    unit = (made["positions"].double() + made["bound"]) / (2 * made["bound"])
    scales = torch.tensor(made["layout"].scales, dtype=torch.float64, device=unit.device)
    at = unit[:, None] * scales[:, None] + made["layout"].shift
    inside = ((at - at.round()).abs() > margin).all(-1).all(-1)
    positions = torch.where(inside[:, None], made["positions"], made["positions"][inside][0])
    return made | {"positions": positions}


def arguments(made: dict[str, Any], half: bool = False) -> tuple[Any, ...]:
    """The positional arguments of `torch.ops.ldp_fast.latent_field`."""
    network = made["network"]._replace(half=half)
    given = (made["positions"], made["table"], None, made["weights"], made["count"])
    return FieldArguments(*given, made["layout"], made["bound"], network).pack()


def backward_arguments(made: dict[str, Any], encoding: Tensor, half: bool = False) -> tuple[Any, ...]:
    """The positional arguments of `torch.ops.ldp_fast.latent_field_backward`."""
    network = made["network"]._replace(half=half)
    grads = (made["grad_density"], made["grad_latents"])
    return *grads, made["positions"], encoding, made["weights"], made["count"], *network
