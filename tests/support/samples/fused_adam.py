"""Arguments of the fused Adam operator, for its tests and its benchmark."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def inputs(
    shape: tuple[int, ...] = (37, 2),
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    shadow: bool = False,
    step: int = 3,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    grad_scale: float | None = None,
    found_inf: float | None = None,
    zero_grad: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Keyword arguments of `torch.ops.ldp_fast.fused_adam`; gradients over many orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    def scalar(value: float | None) -> Tensor | None:
        return None if value is None else torch.tensor(value, dtype=torch.float32, device=device)

    spread = torch.logspace(-8, 2, normal().numel(), dtype=torch.float64).view(shape)
    values = {"param": normal(), "grad": normal() * spread, "exp_avg": 0.1 * normal() * spread}
    values["exp_avg_sq"] = (0.1 * normal() * spread).square()
    tensors: dict[str, Any] = {k: x.float().to(dtype).to(device) for k, x in values.items()}
    return tensors | {
        "shadow": tensors["param"].half() if shadow else None,
        "step": scalar(step),
        "lr": scalar(lr),
        "beta1": 0.9,
        "beta2": 0.99,
        "eps": 1e-15,
        "weight_decay": weight_decay,
        "decoupled": decoupled,
        "grad_scale": scalar(grad_scale),
        "found_inf": scalar(found_inf),
        "zero_grad": zero_grad,
    }
