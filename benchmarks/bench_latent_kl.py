"""latent_kl_loss, and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def eager(latents: Tensor) -> Tensor:
    return reference.latent_kl(latents)[0].mean()


def eager_with_backward(latents: Tensor) -> Tensor:
    value, mean, variance, _ = reference.latent_kl(latents)
    return reference.latent_kl_backward(torch.full_like(value, 1 / value.shape[0]), latents, mean, variance)


def ours_with_backward(latents: Tensor) -> Tensor:
    v = latents.detach().requires_grad_()
    return torch.autograd.grad(losses.latent_kl_loss(v), v)[0]


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
def test_latent_kl_loss(measure: Callable[..., None], device: str, size: str, direction: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        return samples.latent_kl.inputs(shape=SIZES[size], device=device, seed=seed)

    if direction == "forward":
        functions = {"eager": eager, "ours": losses.latent_kl_loss}
    else:
        functions = {"eager": eager_with_backward, "ours": ours_with_backward}
    measure(f"latent_kl_loss, {direction}", functions, inputs)
