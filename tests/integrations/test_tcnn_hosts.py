"""Hosts' real code on our modules in the place of tiny-cuda-nn."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch

import ldp_fast.tinycudann as tcnn

from .hosts import checkout, imported
from .test_tinycudann import HASH, MLP


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours under the name that hosts import."""
    for name in ("tinycudann", "tinycudann.modules"):
        monkeypatch.setitem(sys.modules, name, tcnn)


def test_nerfstudio_has_its_implementation(installed: None) -> None:
    """The fields of generfacto are made of these; its own fallbacks are not taken."""
    folder = checkout("nerfstudio")
    stood_in = ("rich", "tyro", "jaxtyping", "nerfacc", "viser", "nerfstudio.utils.rich_utils")
    x, relu = torch.rand(7, 3), torch.nn.ReLU()
    with imported(folder, "nerfstudio.field_components.encodings", *stood_in) as encodings:
        assert encodings.TCNN_EXISTS
        grid = encodings.HashEncoding(num_levels=4, log2_hashmap_size=10, implementation="tcnn")
        assert grid(x).shape == (7, 8) and isinstance(grid.tcnn_encoding, tcnn.Encoding)
        harmonics = encodings.SHEncoding(levels=4, implementation="tcnn")(x)
        theirs = encodings.SHEncoding(levels=4, implementation="torch")(x * 2 - 1)
        # Theirs has no minus for odd orders, up to their own signs; the magnitudes are the same.
        torch.testing.assert_close(harmonics.abs(), theirs.abs(), rtol=1e-4, atol=1e-5)
        assert encodings.NeRFEncoding(3, 4, 0, 3, implementation="tcnn")(x).shape == (7, 24)
    with imported(folder, "nerfstudio.field_components.mlp", *stood_in) as mlp:
        plain = mlp.MLP(8, 2, 64, 4, activation=relu, out_activation=None, implementation="tcnn")
        assert plain(torch.rand(7, 8)).shape == (7, 4)
        whole = mlp.MLPWithHashEncoding(
            num_levels=4, log2_hashmap_size=10, num_layers=2, layer_width=64, out_dim=4, activation=relu,
            implementation="tcnn",
        )  # fmt: skip
        assert whole(x).shape == (7, 4)


def test_threestudio_has_its_networks(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for `torch.cuda.device` around each, which a CPU-only torch has not."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    ours = (
        "data",
        "systems",
        *(f"models.{n}" for n in ("background", "exporters", "geometry", "guidance", "materials")),
    )
    stood_in = tuple(f"threestudio.{n}" for n in (*ours, "models.prompt_processors", "models.renderers"))
    packages = ("omegaconf", "pytorch_lightning", "jaxtyping", "typeguard", "nerfacc", "envlight", "nvdiffrast", "igl")
    with imported(checkout("threestudio"), "threestudio.models.networks", *stood_in, *packages) as networks:
        assert networks.tcnn is tcnn
        encoding = networks.TCNNEncoding(3, HASH)
        network = networks.TCNNNetwork(encoding.n_output_dims, 4, {**MLP, "output_activation": "none"})
        out = network(encoding(torch.rand(5, 3)))
        assert out.shape == (5, 4) and out.dtype == torch.float32
