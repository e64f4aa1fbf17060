"""tiny-cuda-nn's three modules: an encoding, a network, and both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import checks
from ..nerf.tcnn import PADDING, padded
from .encodings import WHAT, Encoder, create
from .perceptron import Perceptron


class Module(nn.Module):
    """What the three have in common.

    Attributes:
        params: the parameter vector, float32. It is made on the GPU where there is one, as tiny-cuda-nn's is.
        n_input_dims, n_output_dims: widths.
        seed: of the initial parameters.
        loss_scale: tiny-cuda-nn's, 128 for float16; not used.
        output_dtype: dtype of the result; None: float16 on CUDA, float32 on a CPU.
    """

    n_input_dims: int
    n_output_dims: int

    def __init__(
        self, encoder: Encoder, perceptron: Perceptron | None, seed: int = 1337, dtype: torch.dtype | None = None
    ):
        super().__init__()
        if dtype not in (None, torch.float16, torch.float32):
            checks.fail(WHAT, "dtype", "torch.float32, torch.float16 or None", str(dtype))
        self.seed, self.output_dtype = seed, dtype
        self._encoder, self._perceptron = encoder, perceptron
        generator = torch.Generator().manual_seed(seed)
        parts = ([] if perceptron is None else [perceptron.initial(generator)]) + [encoder.initial(generator)]
        device = torch.get_default_device()
        if device.type == "cpu" and torch.cuda.is_available():
            device = torch.device("cuda")
        self.params = nn.Parameter(torch.cat(parts).to(device))

    @property
    def dtype(self) -> torch.dtype:
        """Of the result."""
        if self.output_dtype is not None:
            return self.output_dtype
        if self.params.dtype == torch.float64:
            return torch.float64
        return torch.float16 if self.params.is_cuda else torch.float32

    @property
    def loss_scale(self) -> float:
        """What tiny-cuda-nn multiplies gradients of this dtype by."""
        return 128.0 if self.dtype == torch.float16 else 1.0

    @property
    def jit_fusion(self) -> bool:
        """False; can be set, to no effect."""
        return False

    @jit_fusion.setter
    def jit_fusion(self, value: bool) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """Evaluates.

        Args:
            x: inputs, floating, in [0, 1] for encodings of positions; any number of rows  # [S, n_input_dims]

        Returns:
            [S, n_output_dims] in `dtype`. Gradients to x and `params`.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: another shape.
        """
        if not isinstance(x, Tensor) or not x.is_floating_point():
            got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
            checks.fail(type(self).__name__, "x", "a floating-point tensor", got, TypeError)
        if x.dim() != 2 or x.shape[1] != self.n_input_dims:
            checks.fail(type(self).__name__, "x", f"shape [S, {self.n_input_dims}]", checks.shape_text(x))
        if x.device != self.params.device:
            warnings.warn(f"{type(self).__name__}: x is on {x.device} and goes to {self.params.device}", stacklevel=2)
            x = x.to(self.params.device)
        wide = torch.promote_types(self.params.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            x, params = x.to(wide), self.params.to(wide)
            weights = 0 if self._perceptron is None else self._perceptron.n_params
            out = self._encoder(x, params[weights:])
            if self._perceptron is not None:
                out = self._perceptron(out, params[:weights])
            return out[:, : self.n_output_dims].to(self.dtype)

    def extra_repr(self) -> str:
        return (
            f"n_input_dims={self.n_input_dims}, n_output_dims={self.n_output_dims}, seed={self.seed}, "
            f"dtype={self.dtype}, n_params={self.params.numel()}"
        )


class Encoding(Module):
    """An encoding alone.

    Args:
        n_input_dims: D, inputs.
        encoding_config: `otype` (HashGrid, DenseGrid, TiledGrid, Grid, Frequency, SphericalHarmonics, OneBlob,
            TriangleWave, Identity or Composite) and its options, with tiny-cuda-nn's names and defaults.
        seed: of the initial parameters.
        dtype: of the result, torch.float32 or torch.float16; None: see `Module`.

    Attributes:
        n_output_dims: features.

    Raises:
        ValueError: an option that is not served; names it and what would be.
        RuntimeError: a grid, and the compiled extension is missing.
    """

    def __init__(
        self, n_input_dims: int, encoding_config: Mapping[str, Any], seed: int = 1337, dtype: torch.dtype | None = None
    ):
        encoder = create(n_input_dims, encoding_config)
        super().__init__(encoder, None, seed, dtype)
        self.n_input_dims, self.encoding_config = n_input_dims, encoding_config
        self.n_output_dims = encoder.n_outputs


class NetworkWithInputEncoding(Module):
    """An encoding and a multilayer perceptron.

    Args:
        n_input_dims: D, inputs.
        n_output_dims: outputs.
        encoding_config: as `Encoding`'s.
        network_config: `otype` (FullyFusedMLP, CutlassMLP, MLP), `n_neurons` (128), `n_hidden_layers` (5),
            `activation` ("ReLU") and `output_activation` ("None").
        seed: of the initial parameters.

    Raises:
        ValueError, RuntimeError: as `Encoding`.
    """

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, Any],
        network_config: Mapping[str, Any],
        seed: int = 1337,
    ):
        n_output_dims = checks.whole(WHAT, "n_output_dims", n_output_dims, 1)
        encoder = create(n_input_dims, encoding_config)
        encoder.pad_to(padded(encoder.n_outputs, math.lcm(PADDING, encoder.alignment)))
        super().__init__(encoder, Perceptron(encoder.n_outputs, n_output_dims, network_config), seed)
        self.n_input_dims, self.n_output_dims = n_input_dims, n_output_dims
        self.encoding_config, self.network_config = encoding_config, network_config


class Network(NetworkWithInputEncoding):
    """A multilayer perceptron alone: inputs are padded with ones up to 16, and the ones have weights.

    Args:
        n_input_dims: inputs.
        n_output_dims: outputs.
        network_config: as `NetworkWithInputEncoding`'s.
        seed: of the initial parameters.

    Raises:
        ValueError: as `NetworkWithInputEncoding`.
    """

    def __init__(self, n_input_dims: int, n_output_dims: int, network_config: Mapping[str, Any], seed: int = 1337):
        super().__init__(n_input_dims, n_output_dims, {"otype": "Identity"}, network_config, seed)
