"""tiny-cuda-nn's modules without tiny-cuda-nn: against loops over samples and corners, and its parameter vector.

The loops are written from its documentation and sources (commit 6ee3546), not from ours. Against the real one: the
`gpu` test at the end.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import itertools
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ldp_fast.tinycudann as tcnn
from ldp_fast.nerf import HashGrid

HASH = {
    "otype": "HashGrid",
    "n_levels": 4,
    "n_features_per_level": 2,
    "log2_hashmap_size": 9,
    "base_resolution": 4,
    "per_level_scale": 1.7,
}
MLP = {
    "otype": "FullyFusedMLP",
    "activation": "ReLU",
    "output_activation": "None",
    "n_neurons": 16,
    "n_hidden_layers": 2,
}
PRIMES = (1, 2654435761, 805459861, 3674653429)


def levels_of(config: dict[str, Any], dims: int) -> list[tuple[float, int, int, int]]:
    """Scale, vertices along an axis, first entry and entries of every level."""
    kind = {"HashGrid": "Hash", "DenseGrid": "Dense", "TiledGrid": "Tiled"}.get(config["otype"], config.get("type"))
    base, found, offset = config["base_resolution"], [], 0
    log2_growth = np.log2(np.float32(config["per_level_scale"]))
    for level in range(config["n_levels"]):
        scale = float(np.exp2(np.float32(level) * log2_growth) * np.float32(base) - np.float32(1))
        vertices = math.ceil(scale) + 1
        size = (vertices**dims + 7) // 8 * 8
        if kind == "Hash":
            size = min(size, 2 ** config["log2_hashmap_size"])
        if kind == "Tiled":
            size = min(size, base**dims)
        found.append((scale, vertices, offset, size))
        offset += size
    return found


def looped_grid(config: dict[str, Any], x: np.ndarray, params: np.ndarray) -> np.ndarray:
    """A grid's features, one number after another."""
    dims, n_features = x.shape[1], config["n_features_per_level"]
    table = params.reshape(-1, n_features)
    kind, interpolation = config.get("type", config["otype"]), config.get("interpolation", "Linear")
    out = np.zeros((len(x), config["n_levels"] * n_features))
    for s, (level, (scale, vertices, offset, size)) in itertools.product(
        range(len(x)), enumerate(levels_of(config, dims))
    ):
        at = [float(c) * scale + 0.5 for c in x[s]]
        cell = [math.floor(a) for a in at]
        t = [a - c for a, c in zip(at, cell, strict=True)]
        if interpolation == "Smoothstep":
            t = [3 * u**2 - 2 * u**3 for u in t]
        for corner in itertools.product((0, 1), repeat=dims):
            weight = math.prod(u if up else 1 - u for u, up in zip(t, corner, strict=True))
            if interpolation == "Nearest":
                weight = float(not any(corner))
            place = [(c + up) % 2**32 for c, up in zip(cell, corner, strict=True)]
            index = sum(p * vertices**axis for axis, p in enumerate(place))
            if kind in ("Hash", "HashGrid") and size < vertices**dims:
                index = 0
                for p, prime in zip(place, PRIMES, strict=False):
                    index ^= (p * prime) % 2**32
            entry = offset + index % 2**32 % size
            out[s, level * n_features : (level + 1) * n_features] += weight * table[entry]
    return out


def randomised(module: torch.nn.Module) -> Any:
    torch.nn.init.normal_(module.params, generator=torch.Generator().manual_seed(3))
    return module


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep", "Nearest"])
@pytest.mark.parametrize("otype", ["HashGrid", "DenseGrid", "TiledGrid"])
@pytest.mark.parametrize("dims", [2, 3, 4])
def test_grids_are_the_loops(dims: int, otype: str, interpolation: str) -> None:
    config = {**HASH, "otype": otype, "interpolation": interpolation, "log2_hashmap_size": 6}
    module = randomised(tcnn.Encoding(dims, config))
    levels = levels_of(config, dims)
    assert module.n_output_dims == 8 and module.params.shape == ((levels[-1][2] + levels[-1][3]) * 2,)
    x = torch.rand(37, dims, generator=torch.Generator().manual_seed(0))
    x[:2] = torch.tensor([0.0, 1.0])[:, None]
    expected = looped_grid(config, x.double().numpy(), module.params.detach().double().numpy())
    torch.testing.assert_close(module(x).double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)


def test_what_the_operator_serves_goes_through_it() -> None:
    assert tcnn.Encoding(3, HASH)._encoder.native
    assert tcnn.Encoding(3, {**HASH, "otype": "DenseGrid", "n_levels": 2})._encoder.native
    assert not tcnn.Encoding(2, HASH)._encoder.native
    # Tiled levels with more vertices in a plane than entries, too: every axis counts there as in tiny-cuda-nn.
    assert tcnn.Encoding(3, {**HASH, "otype": "TiledGrid"})._encoder.native


def test_a_grid_is_our_hash_grid() -> None:
    """The same layout as `HashGrid`, so that its table loads."""
    grid = HashGrid(n_levels=5, n_features=4, log2_table_size=10, base_resolution=8, finest_resolution=64)
    config = {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": 5,
        "n_features_per_level": 4,
        "log2_hashmap_size": 10,
        "base_resolution": 8,
        "per_level_scale": grid.per_level_scale,
        "interpolation": "linear",
    }
    module = tcnn.Encoding(3, config)
    with torch.no_grad():
        module.params.copy_(grid.table.flatten())
    x = torch.rand(100, 3)
    assert torch.equal(module(x), grid(x))


@pytest.mark.parametrize("native", [True, False])
def test_gradients_to_parameters_and_positions_twice(native: bool) -> None:
    config = {**HASH, "n_levels": 2, "log2_hashmap_size": 4, "interpolation": "Smoothstep"}
    module = randomised(tcnn.Encoding(3, config)).double()
    module._encoder.native = native
    x = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    params = module.params

    def encode(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, {"params": p}, (x,))

    assert torch.autograd.gradcheck(encode, (x, params))
    assert torch.autograd.gradgradcheck(encode, (x, params))


def test_network_is_its_matrices() -> None:
    """[network, then table]; every matrix [out, in] with both padded up to 16; a grid is padded with zeros."""
    module = randomised(tcnn.NetworkWithInputEncoding(3, 5, HASH, MLP))
    sizes = [16 * 16, 16 * 16, 16 * 16]
    table = levels_of(HASH, 3)[-1]
    assert module.params.numel() == sum(sizes) + (table[2] + table[3]) * 2
    x = torch.rand(19, 3)
    first, second, third, rest = module.params.detach().split([*sizes, module.params.numel() - sum(sizes)])
    encoded = torch.from_numpy(looped_grid(HASH, x.double().numpy(), rest.double().numpy())).float()
    h = F.pad(encoded, (0, 8))
    h = F.relu(h @ first.view(16, 16).T)
    h = F.relu(h @ second.view(16, 16).T)
    torch.testing.assert_close(module(x), (h @ third.view(16, 16).T)[:, :5], rtol=1e-4, atol=1e-3)


def test_network_alone_is_padded_with_ones() -> None:
    module = randomised(tcnn.Network(5, 3, {**MLP, "otype": "CutlassMLP", "n_neurons": 24, "n_hidden_layers": 1}))
    first, second = module.params.detach().split([24 * 16, 16 * 24])
    x = torch.randn(7, 5)
    h = F.relu(torch.cat([x, torch.ones(7, 11)], 1) @ first.view(24, 16).T)
    torch.testing.assert_close(module(x), (h @ second.view(16, 24).T)[:, :3])


def test_network_without_hidden_layers() -> None:
    module = randomised(tcnn.Network(16, 17, {"otype": "MLP", "n_hidden_layers": 0, "output_activation": "sigmoid"}))
    x = torch.randn(3, 16)
    expected = torch.sigmoid(x @ module.params.detach().view(32, 16).T)[:, :17]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("None", lambda x: x),
        ("ReLU", lambda x: max(x, 0.0)),
        ("LeakyReLU", lambda x: x if x > 0 else 0.01 * x),
        ("SiLU", lambda x: x / (1 + math.exp(-x))),
        ("Exponential", math.exp),
        ("Sine", math.sin),
        ("Sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("Squareplus", lambda x: 0.5 * (10 * x + math.sqrt(100 * x * x + 4)) / 10),
        ("Softplus", lambda x: math.log(math.exp(10 * x) + 1) / 10),
        ("Tanh", math.tanh),
    ],
)
def test_activations(name: str, function: Any) -> None:
    x = torch.linspace(-2.0, 2.0, 33, dtype=torch.float64)
    expected = torch.tensor([function(float(v)) for v in x], dtype=torch.float64)
    torch.testing.assert_close(tcnn.ACTIVATIONS[name](x), expected, rtol=1e-7, atol=1e-9)


def test_spherical_harmonics_are_padded_in_front() -> None:
    module = randomised(tcnn.NetworkWithInputEncoding(3, 16, {"otype": "SphericalHarmonics", "degree": 3}, MLP))
    x = torch.rand(5, 3)
    encoded = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 3})(x)
    first, second, third = (m.view(16, 16) for m in module.params.detach().split([256] * 3))
    h = torch.cat([torch.ones(5, 7), encoded], 1)
    expected = F.relu(F.relu(h @ first.T) @ second.T) @ third.T
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-4)


def test_composite() -> None:
    nested = [
        {"n_dims_to_encode": 3, "otype": "SphericalHarmonics", "degree": 1},
        {"n_dims_to_encode": 2, **HASH},
        {"otype": "Identity"},
    ]
    module = randomised(tcnn.Encoding(6, {"otype": "Composite", "nested": nested}))
    x = torch.rand(9, 6)
    grid = tcnn.Encoding(2, HASH)
    with torch.no_grad():
        grid.params.copy_(module.params)
    # One harmonic, moved back to the grid's alignment of two by a one in front of it.
    harmonic = tcnn.Encoding(3, nested[0])(x[:, :3])
    expected = torch.cat([torch.ones(9, 1), harmonic, grid(x[:, 3:5]), x[:, 5:]], 1)
    assert module.n_output_dims == 2 + 8 + 1
    torch.testing.assert_close(module(x), expected)


def test_composite_with_places() -> None:
    nested = [
        {"n_dims_to_encode": 2, "dims_to_encode_begin": 1, "otype": "Identity"},
        {"n_dims_to_encode": 1, "dims_to_encode_begin": 0, "otype": "Identity"},
    ]
    x = torch.rand(4, 3)
    out = tcnn.Encoding(3, {"otype": "Composite", "nested": nested})(x)
    assert torch.equal(out, x[:, [1, 2, 0]])


@pytest.mark.parametrize("rows", [0, 1, 255, 256, 257])
def test_any_number_of_rows(rows: int) -> None:
    module = tcnn.NetworkWithInputEncoding(3, 5, HASH, MLP)
    x = torch.rand(rows, 3, requires_grad=True)
    out = module(x)
    assert out.shape == (rows, 5)
    out.sum().backward()
    assert x.grad is not None and module.params.grad.shape == module.params.shape


def test_state_dict_is_one_vector_both_ways() -> None:
    one, other = (tcnn.NetworkWithInputEncoding(3, 5, HASH, MLP, seed=seed) for seed in (1, 2))
    state = one.state_dict()
    assert list(state) == ["params"] and state["params"].dtype == torch.float32 and state["params"].dim() == 1
    x = torch.rand(8, 3)
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(state)
    assert torch.equal(one(x), other(x))
    for again in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert torch.equal(one(x), again(x))
    same = tcnn.NetworkWithInputEncoding(3, 5, HASH, MLP, seed=1)
    assert torch.equal(same.params, one.params)


def test_initial_values() -> None:
    module = tcnn.NetworkWithInputEncoding(3, 16, HASH, {**MLP, "n_hidden_layers": 1})
    weights, table = module.params.detach().split([512, module.params.numel() - 512])
    assert 0.9 < float(weights.abs().max()) / math.sqrt(6 / 32) <= 1
    assert 0.9e-4 < float(table.abs().max()) <= 1e-4
    assert tcnn.Encoding(3, {"otype": "SphericalHarmonics"}).params.shape == (0,)


def test_dtypes() -> None:
    """float32 on a CPU unless asked for; arithmetic is float32 also under autocast, and gradients are."""
    module = tcnn.Encoding(3, HASH, dtype=torch.float16)
    assert module.dtype == torch.float16 and module.loss_scale == 128.0
    x = torch.rand(4, 3)
    assert module(x).dtype == torch.float16 and module(x.half()).dtype == torch.float16
    module(x).sum().backward()
    assert module.params.grad.dtype == torch.float32
    plain = tcnn.NetworkWithInputEncoding(3, 5, HASH, MLP)
    assert plain.dtype == torch.float32 and plain.loss_scale == 1.0
    with torch.autocast("cpu", torch.bfloat16):
        under = plain(x)
    assert torch.equal(under, plain(x))
    assert "n_params" in repr(plain) and plain.jit_fusion is False


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: tcnn.Encoding(3, {"otype": "Empty"}), "otype: expected one of 'Grid'"),
        (lambda: tcnn.Encoding(5, HASH), "n_input_dims: expected 2, 3 or 4 for a grid, got 5"),
        (lambda: tcnn.Encoding(3, {**HASH, "n_features_per_level": 3}), "n_features_per_level: expected 1, 2, 4 or 8"),
        (lambda: tcnn.Encoding(3, {**HASH, "interpolation": "Cubic"}), "interpolation: expected one of 'Linear'"),
        (lambda: tcnn.Encoding(3, {**HASH, "hash": "Rng"}), "hash: expected one of 'CoherentPrime', got 'Rng'"),
        (lambda: tcnn.Encoding(3, {**HASH, "stochastic_interpolation": True}), "stochastic_interpolation: expected"),
        (lambda: tcnn.Encoding(3, {**HASH, "n_features": 8}), "n_features: expected either this or n_levels"),
        (lambda: tcnn.Encoding(3, {**HASH, "per_level_scale": 0.5}), "per_level_scale: expected a finite number"),
        (
            lambda: tcnn.Encoding(3, {**HASH, "otype": "TiledGrid", "per_level_scale": 10.0}),
            "at most 1625 vertices along an axis for a tiled grid",
        ),
        (
            lambda: tcnn.Encoding(3, {**HASH, "otype": "DenseGrid", "per_level_scale": 10.0}),
            "per_level_scale: expected",
        ),
        (lambda: tcnn.Encoding(3, HASH, dtype=torch.bfloat16), "dtype: expected torch.float32, torch.float16 or None"),
        (lambda: tcnn.Encoding(2, {"otype": "SphericalHarmonics"}), "n_input_dims: expected 3 for SphericalHarmonics"),
        (lambda: tcnn.Encoding(3, {"otype": "OneBlob", "n_bins": 6}), "n_bins: expected a power of two"),
        (lambda: tcnn.Encoding(3, {"otype": "Composite"}), "nested: expected a list of encodings"),
        (lambda: tcnn.Network(3, 4, {**MLP, "n_neurons": 48}), "n_neurons: expected one of (16, 32, 64, 128)"),
        (lambda: tcnn.Network(3, 4, {**MLP, "n_hidden_layers": 0}), "n_hidden_layers: expected a whole number"),
        (lambda: tcnn.Network(3, 4, {**MLP, "activation": "GELU"}), "activation: expected one of 'None'"),
    ],
)
def test_what_is_not_served_is_named(make: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value)


def test_inputs_are_checked() -> None:
    module = tcnn.Encoding(3, HASH)
    with pytest.raises(ValueError, match=r"x: expected shape \[S, 3\], got \[4, 2\]"):
        module(torch.rand(4, 2))
    with pytest.raises(TypeError, match="x: expected a floating-point tensor"):
        module(torch.zeros(4, 3, dtype=torch.int64))


def test_hosts_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that imports tinycudann unconditionally: what threestudio and nerfstudio write."""
    for name in ("tinycudann", "tinycudann.modules"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, None)  # put back afterwards, whatever install does
    assert tcnn.install() is tcnn
    host = importlib.import_module("tinycudann")
    assert importlib.import_module("tinycudann.modules").Encoding is host.Encoding
    encoding = host.Encoding(3, {**HASH, "start_level": 1}, dtype=torch.float32)
    network = host.Network(n_input_dims=encoding.n_output_dims, n_output_dims=3, network_config=MLP)
    assert network(encoding(torch.rand(5, 3))).shape == (5, 3)
    host.free_temporary_memory()
    assert host.supports_jit_fusion() is False


def test_the_old_name_is_the_same_package() -> None:
    import ldp_fast.integrations.tinycudann as by_path
    from ldp_fast.integrations import tinycudann as by_name

    assert by_path is by_name is tcnn is sys.modules["ldp_fast.integrations.tinycudann"]
    assert pickle.loads(pickle.dumps(by_name.Encoding)) is tcnn.Encoding


@pytest.mark.gpu
@pytest.mark.skipif(importlib.util.find_spec("tinycudann") is None, reason="tiny-cuda-nn is not installed")
def test_against_the_real_one() -> None:
    real = importlib.import_module("tinycudann")
    ours, theirs = (m.NetworkWithInputEncoding(3, 5, HASH, MLP) for m in (tcnn, real))
    torch.nn.init.uniform_(theirs.params, -1, 1)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(1000, 3, device="cuda")
    a, b = ours(x), theirs(x)
    assert a.dtype == b.dtype and (a - b).norm() < 2e-2 * b.norm()
