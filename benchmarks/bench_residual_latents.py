"""residual_latents: v′ = v + r, and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def eager_with_backward(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    updated = reference.residual_latents(latents, residual, alpha)
    return reference.residual_latents_backward(updated, alpha)


def ours_with_backward(latents: Tensor, residual: Tensor, alpha: Tensor) -> Tensor:
    v = latents.detach().requires_grad_()
    updated = losses.residual_latents(v, residual, alpha)
    return torch.autograd.grad(updated, v, updated.detach())[0]


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
def test_residual_latents(measure: Callable[..., None], device: str, size: str, direction: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        return samples.residual_latents.inputs(shape=SIZES[size], device=device, seed=seed)

    if direction == "forward":
        functions = {"eager": reference.residual_latents, "ours": losses.residual_latents}
    else:
        functions = {"eager": eager_with_backward, "ours": ours_with_backward}
    measure(f"residual_latents, {direction}", functions, inputs)
