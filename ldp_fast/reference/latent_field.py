"""The latent field: hash grid encoding, small ReLU network, truncated exponential, latents.

    e = hash_grid((x + bound) / (2 bound)),  a_0 = e,  a_l = relu(W_l a_{l-1} + b_l),  h = W_out a_n + b_out
    density = exp(min(h_0 + blob(x), 80)),  latents = h_1.. or their sigmoid
    blob(x) = strength · exp(−|x|² / (2 std²))

The density's slope is exp of the exponent clamped to [−15, 15], torch-ngp's truncated exponential, so that a density
that ran away can come back; the forward stops at 80, where float32 is still finite, in every dtype. The blob is
latent-nerf's density prior (strength 5, std 0.2).
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .hash_grid import GridLayout, hash_grid, live_rows

LARGEST_EXPONENT = 80.0
LARGEST_SLOPE_EXPONENT = 15.0


class FieldNetwork(NamedTuple):
    """What a field does with its encodings: the last arguments of its operators, in their schemas' order.

    Attributes:
        hidden: units of a hidden layer.
        layers: hidden layers.
        channels: of the latents, C.
        bias: whether every layer has one.
        sigmoid: of the latents (RGB), else identity.
        blob_strength: of the Gaussian in the density's exponent; 0 for none.
        blob_std: its standard deviation, in the units of the positions.
        half: products of float16 numbers (encoding, weights, activations), sums in the positions' dtype.
    """

    hidden: int
    layers: int
    channels: int
    bias: bool
    sigmoid: bool
    blob_strength: float
    blob_std: float
    half: bool


class FieldArguments(NamedTuple):
    """The arguments of `latent_field`, which its operator is told one by one: six of the layout, eight of the network.

    Attributes:
        positions: [S, 3] in the box [-bound, bound]³.
        table: [entries, F] of the hash grid.
        shadow: [entries, F] float16, read instead of the table; or None.
        weights: [P], see `split_weights`.
        live: the operator's `count`, [1] int64: rows that are there; the rest is padding and becomes zero. None: all.
        layout: of the hash grid.
        bound: half the edge of the box.
        network: the rest.
    """

    positions: Tensor
    table: Tensor
    shadow: Tensor | None
    weights: Tensor
    live: Tensor | None
    layout: GridLayout
    bound: float
    network: FieldNetwork

    @classmethod
    def unpack(
        cls, positions: Tensor, table: Tensor, shadow: Tensor | None, weights: Tensor, count: Tensor | None, *rest: Any
    ) -> FieldArguments:
        """Makes them of the operator's arguments."""
        layout, bound, network = rest[:_LAYOUT], rest[_LAYOUT], rest[_LAYOUT + 1 :]
        # Every call of the operator comes here, and `_make` takes half the time.
        return cls._make(
            (positions, table, shadow, weights, count, GridLayout._make(layout), bound, FieldNetwork._make(network))
        )

    def pack(self) -> tuple[Any, ...]:
        """Returns the operator's arguments."""
        *inputs, layout, bound, network = self
        return *inputs, *layout, bound, *network


_LAYOUT = len(GridLayout._fields)


def to_unit(positions: Tensor, bound: float) -> Tensor:
    """World coordinates in [−bound, bound]³ to [0, 1]³, with the kernels' bits: [S, 3] -> [S, 3].

    The divisor is a tensor because torch divides by a number on CUDA as a product with its rounded inverse: a position
    near a face would be in one cell for the forward and in the next for the backward.
    """
    return (positions + bound) / positions.new_full((), 2 * bound)


def _round(x: Tensor, half: bool) -> Tensor:
    """To float16 and back where the products are of float16 numbers."""
    return x.half().to(x.dtype) if half else x


def split_weights(
    weights: Tensor, encoding: int, hidden: int, layers: int, channels: int, bias: bool
) -> list[tuple[Tensor, Tensor | None]]:
    """Views of the flat weights, layer by layer: W [out, in] and its bias [out], if there is one.

    Args:
        weights: [P], for every layer W row-major, then its bias.
        encoding: columns of the encoding, E.
        hidden: units of a hidden layer.
        layers: hidden layers.
        channels: of the latents, C; the last layer has 1 + C rows.
        bias: whether every layer has one.

    Raises:
        ValueError: the number of weights is another.
    """
    widths = [encoding, *[hidden] * layers, 1 + channels]
    sizes = [n for i, o in itertools.pairwise(widths) for n in (i * o, o if bias else 0)]
    if weights.shape != (sum(sizes),):
        raise ValueError(f"latent_field: weights: expected shape [{sum(sizes)}], got {list(weights.shape)}")
    parts = weights.split(sizes)
    return [
        (parts[2 * n].view(o, i), parts[2 * n + 1] if bias else None)
        for n, (i, o) in enumerate(itertools.pairwise(widths))
    ]


def _layers(weights: Tensor, encoding: Tensor, network: FieldNetwork) -> list[tuple[Tensor, Tensor | None]]:
    hidden, layers, channels, bias, *_ = network
    return split_weights(weights, encoding.shape[1], hidden, layers, channels, bias)


def blob(positions: Tensor, strength: float, std: float) -> Tensor:
    """strength · exp(−|x|² / (2 std²)): [S]."""
    if strength == 0.0:
        return positions.new_zeros(len(positions))
    return strength * torch.exp(-positions.square().sum(-1) / (2 * std * std))


def _activations(encoding: Tensor, layers: list[tuple[Tensor, Tensor | None]], half: bool) -> list[Tensor]:
    """Inputs of every layer, then the network's output [S, 1 + C]."""
    values = [encoding]
    for n, (weight, bias) in enumerate(layers):
        x = values[-1] @ _round(weight, half).T
        x = x if bias is None else x + bias
        values.append(_round(x.relu(), half) if n + 1 < len(layers) else x)
    return values


def latent_field(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Density and latents at positions, and the encodings for the backward.

    Args:
        *arguments: those of `FieldArguments`, as the operator is told them.

    Returns:
        density [S] >= 0, latents [S, C] and encoding [S, L·F], float16 if `half`.
    """
    positions, table, shadow, weights, count, layout, bound, network = FieldArguments.unpack(*arguments)
    unit = to_unit(positions, bound)
    encoding = hash_grid(unit, table, shadow, count, *layout)
    encoding = encoding.half() if network.half else encoding
    net = _layers(weights, encoding, network)
    out = _activations(encoding.to(weights.dtype), net, network.half)[-1]
    hill = blob(positions, network.blob_strength, network.blob_std)
    density = (out[:, 0] + hill).clamp(max=LARGEST_EXPONENT).exp()
    latents = out[:, 1:].sigmoid() if network.sigmoid else out[:, 1:]
    live = live_rows(positions, count)
    return torch.where(live[:, 0], density, 0), torch.where(live, latents, 0), encoding


def latent_field_backward(
    grad_density: Tensor,
    grad_latents: Tensor,
    positions: Tensor,
    encoding: Tensor,
    weights: Tensor,
    count: Tensor | None,
    *network: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients through the network, which is computed again from the encodings.

    Args:
        grad_density: [S].
        grad_latents: [S, C].
        positions: [S, 3].
        encoding: [S, E] that the forward returned.
        weights: [P].
        count: [1] int64 or None; padding contributes nothing.
        *network: as the forward had it, one by one.

    Returns:
        The gradient to the encoding [S, E], to the weights [P] and to the positions [S, 3], this one through the blob
        alone: what comes through the encoding is the grid's.
    """
    of = FieldNetwork(*network)
    net = _layers(weights, encoding, of)
    *inputs, out = _activations(encoding.to(weights.dtype), net, of.half)
    hill = blob(positions, of.blob_strength, of.blob_std)
    exponent = (out[:, 0] + hill).clamp(-LARGEST_SLOPE_EXPONENT, LARGEST_SLOPE_EXPONENT)
    grad_out = grad_latents
    if of.sigmoid:
        y = out[:, 1:].sigmoid()
        grad_out = grad_latents * y * (1 - y)
    live = live_rows(positions, count)
    grad = torch.where(live, torch.cat([(grad_density * exponent.exp())[:, None], grad_out], dim=1), 0)
    grad_positions = positions.new_zeros(positions.shape)
    if of.blob_strength != 0.0:
        towards = (grad[:, 0] * -hill / (of.blob_std * of.blob_std))[:, None] * positions
        grad_positions = torch.where(live, towards, 0)
    parts: list[Tensor] = []
    for n, (weight, offset) in reversed(list(enumerate(net))):
        if offset is not None:
            parts.insert(0, grad.sum(0))
        parts.insert(0, (grad.T @ torch.where(live, inputs[n], 0)).flatten())
        grad = grad @ _round(weight, of.half)
        if n > 0:
            grad = torch.where(inputs[n] <= 0, 0, grad)
    return torch.where(live, grad, 0), torch.cat(parts), grad_positions
