"""Fields: density and latents at every point of a box. `LatentField` is a hash grid with an MLP.

Positions are world coordinates in the box [−bound, bound]³. Densities are per world unit of length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import checks
from ..ops import hash_grid as _hash_grid  # noqa: F401
from ..ops import latent_field as _latent_field  # noqa: F401
from ..reference.hash_grid import live_rows
from ..reference.latent_field import (
    LARGEST_EXPONENT,
    LARGEST_SLOPE_EXPONENT,
    FieldNetwork,
    blob,
    split_weights,
    to_unit,
)
from .hash_grid import HashGrid

ACTIVATIONS = ("identity", "sigmoid")
BACKENDS = ("ldp", "tcnn")
MOST_CHANNELS = 15


@dataclass(frozen=True)
class Blob:
    """A Gaussian added to the logarithm of the density, so that an object starts in the middle.

    latent-nerf's: 5·exp(−|x|² / (2·0.2²)).

    Attributes:
        strength: at the centre.
        std: standard deviation, in world units.
    """

    strength: float = 5.0
    std: float = 0.2


def find_blob(what: str, density_bias: str | Blob | None) -> Blob:
    """The blob of the argument `density_bias`: "blob", "none" (or None), or a Blob.

    Raises:
        ValueError: none of these, or a width that is not positive.
    """
    found = density_bias if isinstance(density_bias, Blob) else None
    if density_bias is None or isinstance(density_bias, str):
        found = {"blob": Blob(), "none": Blob(0.0), None: Blob(0.0)}.get(density_bias)
    if found is None:
        checks.fail(what, "density_bias", "'blob', 'none' or a Blob", repr(density_bias))
    checks.number(what, "density_bias.strength", found.strength)
    checks.number(what, "density_bias.std", found.std, 0.0, open_low=True)
    return found


class Field(nn.Module):
    """What all fields share: checks, chunked densities, gradients of the density."""

    bound: float
    channels: int

    @torch.no_grad()
    def density(self, positions: Tensor, *, chunk: int = 2**18) -> Tensor:
        """Densities without gradients, in chunks that bound the memory.

        Args:
            positions: [S, 3] world coordinates; cast to the field's dtype.
            chunk: positions at a time.

        Returns:
            [S].
        """
        positions = positions.to(next(self.parameters()).dtype)
        parts = [self(part)[0] for part in positions.split(checks.whole("density", "chunk", chunk, 1))]
        return torch.cat(parts) if parts else positions.new_empty(0)

    def density_gradient(self, positions: Tensor, *, create_graph: bool = False) -> tuple[Tensor, Tensor]:
        """The density and its gradient by the position.

        Args:
            positions: [S, 3] world coordinates.
            create_graph: whether the gradient can be differentiated again (by positions and parameters).

        Returns:
            density [S]; gradient [S, 3], per world unit.
        """
        # Inference mode would keep nothing to differentiate; a clone, for its tensors cannot be. Autocast would round.
        whole = torch.autocast(positions.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), whole:
            x = positions if create_graph and positions.requires_grad else positions.detach().clone().requires_grad_()
            density = self._differentiable_density(x) if create_graph else self(x)[0]
            (gradient,) = torch.autograd.grad(density.sum(), x, create_graph=create_graph)
        return (density, gradient) if create_graph else (density.detach(), gradient)

    def normals(self, positions: Tensor, *, create_graph: bool = False) -> Tensor:
        """Unit vectors out of the object, −∇density / |∇density|; zero where the density does not change. [S, 3]."""
        gradient = self.density_gradient(positions, create_graph=create_graph)[1]
        return -F.normalize(gradient, dim=-1, eps=1e-12)

    def _differentiable_density(self, positions: Tensor) -> Tensor:
        return self(positions)[0]


class LatentField(Field):
    """A hash grid and a small MLP: position -> density and C latent channels.

    h = MLP(grid(x)); density = exp(h₀ + blob(x)); latents = h₁…h_C. The exponential is truncated: its gradient is taken
    at no more than 15. On CUDA encoding and MLP are one kernel with float32 accumulation on tensor cores (float32
    products in three TF32 parts; float16 products under autocast to float16); the encodings are saved and the MLP is
    computed again in the backward. Gradients go to the table, the weights and the positions.

    Args:
        grid: the encoding; it becomes a part of this module.
        hidden: units of a hidden layer, 16 to 128, a multiple of 16.
        layers: hidden layers, 1 to 4.
        channels: C, 1 to 15.
        bias: whether the layers have one.
        density_bias: "blob" (a Gaussian in the middle, see `Blob`), "none", or a Blob.
        bound: half the side of the box.
        activation: of the channels: "identity" for latents, "sigmoid" for RGB.
        backend: "ldp", or "tcnn" for tiny-cuda-nn's encoding and MLP (`ldp_fast.nerf.tcnn`).

    Attributes:
        grid: the HashGrid.
        weights: [P] parameter: layer after layer, each [out, in] row by row, then its bias.

    Raises:
        ValueError: an argument out of range, or a configuration that tiny-cuda-nn does not have.
        ImportError: backend "tcnn" without tiny-cuda-nn; says how to install it.

    Examples:
        >>> import torch
        >>> from ldp_fast.nerf import HashGrid, LatentField
        >>> field = LatentField(HashGrid(log2_table_size=12), hidden=32, channels=4)
        >>> density, channels = field(torch.zeros(5, 3))
        >>> density.shape, channels.shape
        (torch.Size([5]), torch.Size([5, 4]))
        >>> centre, corner = field.density(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
        >>> bool(centre > corner)  # the blob
        True
    """

    def __init__(
        self,
        grid: HashGrid,
        hidden: int = 64,
        layers: int = 2,
        channels: int = 4,
        bias: bool = False,
        density_bias: str | Blob | None = "blob",
        *,
        bound: float = 1.0,
        activation: str = "identity",
        backend: str = "ldp",
    ):
        super().__init__()
        name = "LatentField"
        if not isinstance(grid, HashGrid):
            checks.fail(name, "grid", "a HashGrid", type(grid).__name__, TypeError)
        hidden = checks.whole(name, "hidden", hidden, 16, 128)
        if hidden % 16:
            checks.fail(name, "hidden", "a multiple of 16", str(hidden))
        if grid.n_outputs > 128:
            checks.fail(name, "grid", "at most 128 outputs (levels × features)", str(grid.n_outputs))
        self.grid = grid
        self.hidden, self.layers = hidden, checks.whole(name, "layers", layers, 1, 4)
        self.channels, self.bias = checks.whole(name, "channels", channels, 1, MOST_CHANNELS), bool(bias)
        self.blob = find_blob(name, density_bias)
        self.bound = checks.number(name, "bound", bound, 0.0, open_low=True)
        self.activation = checks.choice(name, "activation", activation, ACTIVATIONS)
        self.backend = checks.choice(name, "backend", backend, BACKENDS)
        parts = []
        for rows, columns in self.shapes:
            # Kaiming's uniform initialisation with a gain of 1 keeps the first densities near the blob's.
            limit = 1 / math.sqrt(columns)
            parts.append(torch.empty(rows * columns).uniform_(-limit, limit))
            if self.bias:
                parts.append(torch.zeros(rows))
        self.weights = nn.Parameter(torch.cat(parts))
        if backend == "tcnn":
            from .tcnn import TcnnNetwork

            self.network = TcnnNetwork(self)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(out, in) of every layer."""
        inner = [(self.hidden, self.hidden)] * (self.layers - 1)
        return [(self.hidden, self.grid.n_outputs), *inner, (1 + self.channels, self.hidden)]

    def linear_layers(self, weights: Tensor | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Views of the flat weights: matrix [out, in] and bias [out] (or None) of every layer."""
        flat = self.weights if weights is None else weights
        return split_weights(flat, self.grid.n_outputs, self.hidden, self.layers, self.channels, self.bias)

    def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Density and channels.

        Args:
            positions: [S, 3] world coordinates in [−bound, bound]³, of the parameters' dtype.
            count: [1] int64: how many rows are there, the rest being padding. None: all.

        Returns:
            density [S] ≥ 0; channels [S, C]; both zero on padding.

        Raises:
            TypeError, ValueError: positions of another dtype, shape or device.
        """
        grid = self.grid
        grid.check("LatentField", positions)
        if self.backend == "tcnn":
            return self._finish(self.network(self._unit(positions)), positions, count)
        half, hill = grid.half_table(), self.blob
        network = FieldNetwork(
            self.hidden,
            self.layers,
            self.channels,
            self.bias,
            self.activation == "sigmoid",
            hill.strength,
            hill.std,
            half is not None,
        )
        density, channels, _ = torch.ops.ldp_fast.latent_field(
            positions.contiguous(),
            grid.table,
            half,
            self.weights,
            count,
            *grid.layout,
            self.bound,
            *network,
        )
        return density, channels

    def _unit(self, positions: Tensor) -> Tensor:
        return to_unit(positions, self.bound)

    def unfused(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward` from the hash grid's operator and torch's own layers: slower, and differentiable twice."""
        self.grid.check("LatentField", positions)
        x = torch.ops.ldp_fast.hash_grid(
            self._unit(positions).contiguous(), self.grid.table, None, count, *self.grid.layout
        )
        # Autocast would round the products, which the fused way does not.
        with torch.autocast(positions.device.type, enabled=False):
            *inner, last = self.linear_layers()
            for matrix, bias in inner:
                x = F.relu(F.linear(x, matrix, bias))
            return self._finish(F.linear(x, *last), positions, count)

    def _finish(self, outputs: Tensor, positions: Tensor, count: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs = outputs.to(positions.dtype)
        exponent = outputs[:, 0] + blob(positions, self.blob.strength, self.blob.std)
        density, channels = truncated_exp(exponent), outputs[:, 1:]
        channels = channels.sigmoid() if self.activation == "sigmoid" else channels
        if count is not None:
            live = live_rows(positions, count)
            density, channels = torch.where(live[:, 0], density, 0), torch.where(live, channels, 0)
        return density, channels

    def _differentiable_density(self, positions: Tensor) -> Tensor:
        return self.unfused(positions)[0]

    def parameter_groups(self, lr: float, grid_lr: float | None = None) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser: the table with its own rate (ten times the rest's, as latent-nerf)."""
        if self.backend == "tcnn":
            return [{"params": [self.network.params], "lr": lr}]
        return [
            {"params": [self.grid.table], "lr": 10 * lr if grid_lr is None else grid_lr},
            {"params": [self.weights], "lr": lr},
        ]

    def extra_repr(self) -> str:
        return (
            f"{self.layers} hidden layers of {self.hidden}, {self.channels} channels ({self.activation}), "
            f"bias={self.bias}, {self.blob}, bound={self.bound:g}, backend={self.backend!r}"
        )


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clamp(max=LARGEST_EXPONENT).exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * ctx.saved_tensors[0].clamp(-LARGEST_SLOPE_EXPONENT, LARGEST_SLOPE_EXPONENT).exp()


def truncated_exp(x: Tensor) -> Tensor:
    """exp(x), with its gradient taken at x clamped to ±15: no density explodes because its gradient is not finite."""
    return _TruncatedExp.apply(x)
