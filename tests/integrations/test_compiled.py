"""A compiled host step: one graph, whatever the numbers, and the gradient that it has when it is not compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from .adapters import ADAPTERS, LAMBDAS, Host, another_vae, embeddings, latents


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No compiled code of another test."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


TEXT = embeddings(2)
STEPS: dict[str, Any] = {
    "latent_nerf": (lambda host, x, s: host.train_step(TEXT, x, s), latents),
    "prolificdreamer": (lambda host, x, s: host.train_step(TEXT, x, s)[0], latents),
}


@pytest.mark.parametrize("name", STEPS)
def test_all_numbers_have_the_same_graph(name: str) -> None:
    adapter = next(a for a in ADAPTERS if a.name == name)
    mode = {"mode": "loss"} if name == "latent_nerf" else {}
    host = adapter.wrap(Host(), **mode, lambda_fm=0.0)
    step, leaves = STEPS[name]

    def gradient(run: Any, scale: float) -> Tensor:
        leaf = leaves()
        torch.manual_seed(5)
        return torch.autograd.grad(run(host, leaf, scale), leaf)[0]

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    for scale in (100.0, 50.0, 20.0, 7.5, 5.0, 3.0, 2.0, 1.5, 1.25, 1.1):
        host.ldp.losses.lambda_kl, host.ldp.losses.lambda_lsd = 0.01 * scale, 1 + 1 / scale
        torch.testing.assert_close(gradient(compiled, scale), gradient(step, scale))
    # The first graph has its numbers as constants; the second takes any.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_feature_matching_stays_outside_of_the_graphs_and_follows_the_vae() -> None:
    adapter = next(a for a in ADAPTERS if a.name == "prolificdreamer")
    host = adapter.wrap(Host(), **LAMBDAS)
    step, leaves = STEPS[adapter.name]

    def gradient(run: Any) -> Tensor:
        leaf = leaves()
        torch.manual_seed(5)
        return torch.autograd.grad(run(host, leaf, 7.5), leaf)[0]

    compiled = torch.compile(step, backend="eager")
    found = [gradient(compiled)]
    torch.testing.assert_close(found[0], gradient(step))
    host.vae = another_vae()
    found.append(gradient(compiled))
    torch.testing.assert_close(found[1], gradient(step))
    assert not torch.allclose(*found, rtol=1e-3)
