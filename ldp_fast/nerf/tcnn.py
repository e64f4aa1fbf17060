"""`LatentField(backend="tcnn")`: tiny-cuda-nn computes encoding and MLP; parameters go both ways.

A tiled grid is tiny-cuda-nn's of June 2025 and later: before, fine levels left out axes.

tiny-cuda-nn keeps one flat vector: the network's matrices first, each [out, in] row by row with its sizes padded up to
16 (a grid is padded with zeros, so that the weights of padded inputs do nothing; outputs beyond those asked for are
dropped), then the table, level after level, as ours. It works in float16 with float16 gradients and has no biases.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .. import checks

if TYPE_CHECKING:
    from .fields import LatentField
    from .hash_grid import HashGrid

INSTALL = "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"
PADDING = 16
WIDTHS = (16, 32, 64, 128)
OTYPES = {"hash": "HashGrid", "tiled": "TiledGrid"}


def load() -> Any:
    """Returns the module tinycudann.

    Raises:
        ImportError: it cannot be imported; says how to install it.
    """
    try:
        return importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:  # it raises OSError where there is no GPU
        raise ImportError(
            "LatentField: backend: expected tiny-cuda-nn for 'tcnn', but tinycudann cannot be imported "
            f"({' '.join(str(error).split())}); install it with `{INSTALL}` (it needs a GPU and nvcc), "
            "or use backend='ldp'"
        ) from error


def configurations(field: LatentField) -> tuple[dict[str, Any], dict[str, Any]]:
    """tiny-cuda-nn's configurations of a field's encoding and network.

    Raises:
        ValueError: the field has something that tiny-cuda-nn does not have.
    """
    grid = field.grid
    if field.bias:
        checks.fail("LatentField", "bias", "False for backend 'tcnn', whose layers have none", "True")
    if field.hidden not in WIDTHS:
        checks.fail("LatentField", "hidden", f"one of {WIDTHS} for backend 'tcnn'", str(field.hidden))
    _check_kind("LatentField", grid)
    encoding = {
        "otype": OTYPES[grid.kind],
        "n_levels": grid.n_levels,
        "n_features_per_level": grid.n_features,
        "log2_hashmap_size": grid.log2_table_size,
        "base_resolution": grid.base_resolution,
        "per_level_scale": grid.per_level_scale,
        "interpolation": grid.interpolation.capitalize(),
    }
    network = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": field.hidden,
        "n_hidden_layers": field.layers,
    }
    return encoding, network


def _check_kind(what: str, grid: HashGrid) -> None:
    if grid.kind not in OTYPES:
        checks.fail(what, "grid.kind", "'hash' or 'tiled', which tiny-cuda-nn has,", repr(grid.kind))


def padded(size: int, multiple: int = PADDING) -> int:
    """The next multiple."""
    return -(-size // multiple) * multiple


def to_tcnn(field: LatentField) -> Tensor:
    """The field's parameters as tiny-cuda-nn's flat vector, float32.

    Raises:
        ValueError: a grid of a kind that tiny-cuda-nn does not have.
    """
    _check_kind("to_tcnn", field.grid)
    parts = []
    with torch.no_grad():
        for matrix, _ in field.linear_layers():
            rows, columns = matrix.shape
            larger = matrix.new_zeros(padded(rows), padded(columns))
            larger[:rows, :columns] = matrix
            parts.append(larger.flatten())
        return torch.cat([*parts, field.grid.table.flatten()]).float()


def from_tcnn(field: LatentField, parameters: Tensor) -> None:
    """Writes tiny-cuda-nn's flat vector into a field's own parameters.

    What stands for padding is dropped: it does nothing, for padded inputs are zero.

    Raises:
        ValueError: a vector of another size, or a grid of a kind that tiny-cuda-nn does not have.
    """
    _check_kind("from_tcnn", field.grid)
    sizes = [padded(rows) * padded(columns) for rows, columns in field.shapes]
    wanted = sum(sizes) + field.grid.table.numel()
    if parameters.dim() != 1 or len(parameters) != wanted:
        checks.fail("from_tcnn", "parameters", f"shape [{wanted}]", checks.shape_text(parameters))
    *matrices, table = parameters.detach().split([*sizes, field.grid.table.numel()])
    with torch.no_grad():
        for (ours, _), theirs in zip(field.linear_layers(), matrices, strict=True):
            rows, columns = ours.shape
            ours.copy_(theirs.view(padded(rows), padded(columns))[:rows, :columns])
        field.grid.table.copy_(table.view_as(field.grid.table))


class TcnnNetwork(nn.Module):
    """tiny-cuda-nn's encoding and network for a field. The parameters trained are its own, `params`.

    The field's table and weights are frozen; `pull` copies what was trained into them (`state_dict` does so by itself),
    `push` the other way (`load_state_dict` does).

    Args:
        field: a LatentField under construction.

    Raises:
        ImportError: no tiny-cuda-nn.
        ValueError: a configuration it does not have.
    """

    def __init__(self, field: LatentField):
        super().__init__()
        encoding, network = configurations(field)
        self.inner = load().NetworkWithInputEncoding(
            n_input_dims=3, n_output_dims=1 + field.channels, encoding_config=encoding, network_config=network
        )
        field.grid.table.requires_grad_(False)
        field.weights.requires_grad_(False)
        # Not as a submodule: the field holds this module.
        self._field: LatentField
        object.__setattr__(self, "_field", field)
        self.push()
        field.register_state_dict_pre_hook(lambda *_: self.pull())
        field.register_load_state_dict_post_hook(lambda *_: self.push())

    @property
    def params(self) -> nn.Parameter:
        """tiny-cuda-nn's flat vector."""
        return self.inner.params

    @torch.no_grad()
    def push(self) -> None:
        """The field's parameters -> tiny-cuda-nn."""
        self.params.copy_(to_tcnn(self._field))

    @torch.no_grad()
    def pull(self) -> None:
        """tiny-cuda-nn's parameters -> the field's own."""
        from_tcnn(self._field, self.params.float())

    def forward(self, positions: Tensor) -> Tensor:
        """[S, 3] in [0, 1] -> [S, 1 + C]."""
        return self.inner(positions)
