"""backend="tcnn": the error without it, the parameters both ways, and the module against a stand-in.

tiny-cuda-nn needs a GPU. What is tested everywhere is our side: a stand-in computes, in plain torch and from
tiny-cuda-nn's documented parameter layout, what it would compute. Against the real one: the `gpu` test.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldp_fast.nerf import HashGrid, LatentField, tcnn


def make_grid() -> HashGrid:
    torch.manual_seed(0)
    grid = HashGrid(n_levels=3, n_features=4, log2_table_size=9, base_resolution=4, finest_resolution=32)
    nn.init.normal_(grid.table)
    return grid


class StandIn(nn.Module):
    """tinycudann.NetworkWithInputEncoding as far as it is used: one vector, matrices padded to 16, then the grid."""

    def __init__(self, n_input_dims: int, n_output_dims: int, encoding_config: dict, network_config: dict):
        super().__init__()
        assert n_input_dims == 3 and network_config["activation"] == "ReLU"
        finest = encoding_config["base_resolution"] * encoding_config["per_level_scale"] ** (
            encoding_config["n_levels"] - 1
        )
        self.grid = HashGrid(
            encoding_config["n_levels"],
            encoding_config["n_features_per_level"],
            encoding_config["log2_hashmap_size"],
            encoding_config["base_resolution"],
            round(finest),
        )
        self.width, self.layers, self.outputs = (
            network_config["n_neurons"],
            network_config["n_hidden_layers"],
            n_output_dims,
        )
        self.inputs = -(-self.grid.n_outputs // 16) * 16
        self.last = -(-n_output_dims // 16) * 16
        inner = [(self.width, self.width)] * (self.layers - 1)
        self.shapes = [(self.width, self.inputs), *inner, (self.last, self.width)]
        table = self.grid.table
        del self.grid.table
        self.grid.table = table.detach()  # a plain attribute, set from the vector
        self.params = nn.Parameter(torch.randn(sum(a * b for a, b in self.shapes) + table.numel()) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        *matrices, table = self.params.split([*(a * b for a, b in self.shapes), self.grid.table.numel()])
        h = torch.ops.ldp_fast.hash_grid(x, table.view_as(self.grid.table), None, None, *self.grid.layout)
        h = F.pad(h, (0, self.inputs - h.shape[1]), value=0.0)
        for matrix, shape in zip(matrices[:-1], self.shapes[:-1], strict=True):
            h = F.relu(F.linear(h, matrix.view(shape)))
        return F.linear(h, matrices[-1].view(self.shapes[-1]))[:, : self.outputs]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tinycudann")
    module.NetworkWithInputEncoding = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tinycudann", module)


def test_without_it_the_error_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(ImportError) as caught:
        LatentField(make_grid(), backend="tcnn")
    assert "backend: expected tiny-cuda-nn" in str(caught.value) and tcnn.INSTALL in str(caught.value)


def test_there_and_back_again() -> None:
    field = LatentField(make_grid(), hidden=32)
    flat = tcnn.to_tcnn(field)
    assert len(flat) == 32 * 16 + 32 * 32 + 16 * 32 + field.grid.table.numel()
    other = LatentField(make_grid(), hidden=32)
    nn.init.zeros_(other.weights)
    nn.init.zeros_(other.grid.table)
    tcnn.from_tcnn(other, flat)
    assert torch.equal(other.weights, field.weights) and torch.equal(other.grid.table, field.grid.table)


def test_computes_the_same(stand_in: None) -> None:
    ours = LatentField(make_grid(), hidden=32)
    theirs = LatentField(make_grid(), hidden=32, backend="tcnn")
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.rand(100, 3) * 2 - 1
    for a, b in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_trains_its_own_parameters_and_saves_ours(stand_in: None) -> None:
    field = LatentField(make_grid(), hidden=32, backend="tcnn")
    x = torch.rand(50, 3) * 2 - 1
    optimiser = torch.optim.Adam(field.parameter_groups(1e-2)[0]["params"], lr=1e-2)
    density, latents = field(x)
    (density.mean() + latents.square().mean()).backward()
    optimiser.step()
    plain = LatentField(make_grid(), hidden=32)
    state = {k: v for k, v in field.state_dict().items() if not k.startswith("network.")}
    plain.load_state_dict(state)
    for a, b in zip(plain(x), field(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bias": True}, "bias: expected False for backend 'tcnn'"),
        ({"hidden": 48}, "hidden: expected one of (16, 32, 64, 128) for backend 'tcnn'"),
    ],
)
def test_what_it_has_not_is_named(options: dict[str, object], words: str, stand_in: None) -> None:
    with pytest.raises(ValueError) as caught:
        LatentField(make_grid(), backend="tcnn", **options)  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_foreign_vectors_are_refused() -> None:
    field = LatentField(make_grid(), hidden=32)
    with pytest.raises(ValueError, match="parameters: expected shape"):
        tcnn.from_tcnn(field, torch.zeros(7))


def test_weights_of_padded_inputs_are_dropped() -> None:
    """A grid is padded with zeros, so that a network that was trained has such weights and does nothing with them."""
    field = LatentField(make_grid(), hidden=32)
    flat = tcnn.to_tcnn(field)
    kept = flat.clone()
    flat[15] = 1.0  # row 0, input 15 of 12
    tcnn.from_tcnn(field, flat)
    assert torch.equal(tcnn.to_tcnn(field), kept)


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is None, reason="tiny-cuda-nn is not installed")
def test_against_the_real_one() -> None:
    ours = LatentField(HashGrid(), density_bias="none").cuda()
    nn.init.uniform_(ours.grid.table, -1, 1)
    theirs = LatentField(HashGrid(), density_bias="none", backend="tcnn").cuda()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    x = torch.rand(4096, 3, device="cuda") * 2 - 1
    for a, b in zip(ours(x), theirs(x), strict=True):
        assert (a - b).norm() < 2e-2 * a.norm(), "float16 with float16 accumulation on their side"
