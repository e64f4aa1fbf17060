"""tiny-cuda-nn's multilayer perceptrons as functions of inputs and a flat parameter vector."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..nerf.tcnn import PADDING, WIDTHS, padded
from .encodings import WHAT, option

SHARPNESS = 10.0  # of softplus and squareplus
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "None": lambda x: x,
    "ReLU": F.relu,
    "LeakyReLU": F.leaky_relu,
    "SiLU": F.silu,
    "Exponential": torch.exp,
    "Sine": torch.sin,
    "Sigmoid": torch.sigmoid,
    "Squareplus": lambda x: (SHARPNESS * x + ((SHARPNESS * x).square() + 4).sqrt()) / (2 * SHARPNESS),
    "Softplus": lambda x: F.softplus(x, beta=SHARPNESS),
    "Tanh": torch.tanh,
}
NETWORKS = ("FullyFusedMLP", "MegakernelMLP", "MLP", "CutlassMLP")


class Perceptron:
    """A multilayer perceptron without biases, of a flat vector.

    Attributes:
        shapes: [out, in] of every matrix, padded.
        n_params: numbers of the vector.
    """

    def __init__(self, n_inputs: int, n_outputs: int, config: Mapping[str, Any]):
        fused = option(config, "otype", "MLP", NETWORKS) in NETWORKS[:2]
        width = checks.whole(WHAT, "n_neurons", config.get("n_neurons", 128), 1)
        if fused and width not in WIDTHS:
            checks.fail(WHAT, "n_neurons", f"one of {WIDTHS} for FullyFusedMLP", str(width))
        layers = checks.whole(WHAT, "n_hidden_layers", config.get("n_hidden_layers", 5), int(fused))
        self.activation = option(config, "activation", "ReLU", tuple(ACTIVATIONS))
        self.output_activation = option(config, "output_activation", "None", tuple(ACTIVATIONS))
        widths = [n_inputs, *[width] * layers, padded(n_outputs, PADDING)]
        self.shapes = [(rows, columns) for columns, rows in itertools.pairwise(widths)]
        self.n_params = sum(rows * columns for rows, columns in self.shapes)

    def initial(self, generator: torch.Generator) -> Tensor:
        """Fresh weights, float32 [n_params]: Xavier's, or those of SIREN for sines."""
        parts = []
        for index, (rows, columns) in enumerate(self.shapes):
            bound = math.sqrt(6 / (rows + columns))
            if self.activation == "Sine":
                bound = 30 / columns if index == 0 else math.sqrt(6 / columns)
            parts.append(torch.empty(rows * columns).uniform_(-bound, bound, generator=generator))
        return torch.cat(parts)

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        """[S, in] -> [S, padded out]."""
        *hidden, last = params.split([rows * columns for rows, columns in self.shapes])
        for matrix, shape in zip(hidden, self.shapes, strict=False):
            x = ACTIVATIONS[self.activation](F.linear(x, matrix.view(shape)))
        return ACTIVATIONS[self.output_activation](F.linear(x, last.view(self.shapes[-1])))
