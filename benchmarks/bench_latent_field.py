"""The latent field's network and the whole field, forward and backward: the extension against plain PyTorch.

    python -m pytest benchmarks/bench_latent_field.py
    python -m pytest benchmarks/bench_latent_field.py -k "64x2"

`reference` is `ldp_fast.reference`, `linear` the same network through `torch.nn.functional.linear` and autograd, `ours`
the extension, `half` the extension with float16 products (CUDA only). The backward is that of the network alone,
without the table's scatter (benchmarks/bench_hash_grid.py). 262 144 samples: 64x64 rays of 64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast import ops, reference
from ldp_fast.ops import _native
from ldp_fast.reference.latent_field import split_weights
from tests.support import samples

from .timing import measure

assert ops.latent_field

SIZE = 262144
GRID = samples.hash_grid.Grid(n_levels=16, log2_table_size=19, base_resolution=16, growth=128 ** (1 / 15))
NETWORKS = {"small": (16, 1), "32x2": (32, 2), "64x1": (64, 1), "64x2": (64, 2), "64x3": (64, 3), "128x2": (128, 2)}
CONTENDERS = ("reference", "linear", "ours", "half")


def through_linear(made: dict[str, Any], encoding: Tensor) -> tuple[Tensor, ...]:
    """Forward and backward of the network as one would write it: linear layers, autograd."""
    e, w = encoding.detach().requires_grad_(), made["weights"].detach().requires_grad_()
    hidden, layers, channels, bias, _, strength, std, _ = made["network"]
    x = e
    *inner, last = split_weights(w, e.shape[1], hidden, layers, channels, bias)
    for matrix, offset in inner:
        x = F.relu(F.linear(x, matrix, offset))
    h = F.linear(x, *last)
    blob = strength * torch.exp(-made["positions"].square().sum(-1) / (2 * std * std))
    outputs = torch.exp(h[:, 0] + blob), h[:, 1:]
    return torch.autograd.grad(outputs, (e, w), (made["grad_density"], made["grad_latents"]))


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("direction", ["field forward", "network backward"])
@pytest.mark.parametrize("network", NETWORKS)
def test_latent_field(benchmark: Any, device: str, network: str, direction: str, contender: str) -> None:
    if contender in ("ours", "half") and _native.extension() is None:
        pytest.skip("the extension ldp_fast._C was not built")
    if contender == "half" and device == "cpu":
        pytest.skip("float16 products are for CUDA; a CPU computes them in the reference")
    if contender == "linear" and direction == "field forward":
        pytest.skip("linear layers are compared where autograd is: forward and backward of the network")
    hidden, layers = NETWORKS[network]
    size = 4096 if network == "small" else SIZE
    made = samples.latent_field.inputs(samples.latent_field.Field(GRID, hidden, layers), size, device=device)
    half = contender == "half"
    encoding = torch.ops.ldp_fast.latent_field(*samples.latent_field.arguments(made, half))[2]
    functions: dict[str, Callable[..., Any]] = {
        "reference": reference.latent_field if direction == "field forward" else reference.latent_field_backward,
        "linear": lambda *_: through_linear(made, encoding),
    }
    namespace = torch.ops.ldp_fast
    ours = namespace.latent_field if direction == "field forward" else namespace.latent_field_backward
    function = functions.get(contender, ours)
    forward = direction == "field forward"
    arguments = (
        samples.latent_field.arguments(made, half)
        if forward
        else samples.latent_field.backward_arguments(made, encoding, half)
    )

    benchmark.group = f"latent_field {network}, {direction}, {device}"
    benchmark.extra_info |= {
        "op": "latent_field",
        "backend": contender,
        "samples": size,
        "hidden": hidden,
        "layers": layers,
    }
    graph = contender != "reference"
    measure(benchmark, partial(function, *arguments), device, rounds=3, warmup_rounds=1, graph=graph)
