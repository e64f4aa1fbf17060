"""score_distillation_loss, and its backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import losses, reference
from tests.support import samples

from .conftest import SIZES


def eager(latents: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    return reference.score_distillation(residual, weight)[0].mean()


def eager_with_backward(latents: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    value, _ = reference.score_distillation(residual, weight)
    incoming = torch.full_like(value, 1 / value.shape[0])
    return reference.score_distillation_backward(incoming, residual, weight, latents.dtype)


def ours_with_backward(latents: Tensor, residual: Tensor, weight: Tensor) -> Tensor:
    v = latents.detach().requires_grad_()
    return torch.autograd.grad(losses.score_distillation_loss(v, residual, weight), v)[0]


@pytest.mark.parametrize("direction", ["forward", "forward and backward"])
def test_score_distillation_loss(measure: Callable[..., None], device: str, size: str, direction: str) -> None:
    def inputs(seed: int) -> dict[str, Any]:
        return samples.score_distillation.inputs(shape=SIZES[size], device=device, seed=seed)

    if direction == "forward":
        functions = {"eager": eager, "ours": losses.score_distillation_loss}
    else:
        functions = {"eager": eager_with_backward, "ours": ours_with_backward}
    measure(f"score_distillation_loss, {direction}", functions, inputs)
