"""One step of Adam on one parameter: torch.optim.Adam's formula, with what a training loop does around it."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def fused_adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    shadow: Tensor | None,
    step: Tensor,
    lr: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    zero_grad: bool,
) -> None:
    """Unscales the gradient, updates parameter and moments, casts the parameter, zeroes the gradient; all in place.

    m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g², p ← p − lr/(1 − β₁ᵗ) · m / (√(v / (1 − β₂ᵗ)) + ε) with t = step + 1.
    Deterministic; waits for no device.

    Args:
        param: p, float32 or float64.
        grad: g, like p. Afterwards zero, or, with `zero_grad` off, unscaled.
        exp_avg: m, like p.
        exp_avg_sq: v, like p.
        shadow: float16 of as many elements, p rounded; or None.
        step: [] or [1] float32, steps taken so far; counts up.
        lr: [] or [1], like p.
        beta1: β₁.
        beta2: β₂.
        eps: ε.
        weight_decay: times p is added to g; decoupled, p is first scaled by 1 − lr · weight_decay.
        decoupled: AdamW.
        grad_scale: [] or [1], divides the gradient; None is 1.
        found_inf: [] or [1]; where it is not 0 nothing changes but the gradient, and the step does not count.
        zero_grad: leaves a gradient of zeros.
    """
    go = torch.ones_like(step, dtype=torch.bool) if found_inf is None else found_inf.reshape(step.shape) == 0
    t = (step + 1).reshape(()).double()
    g = grad if grad_scale is None else grad / grad_scale.reshape(()).to(grad.dtype)
    rate = lr.reshape(()).to(param.dtype)
    p = param * (1 - rate * weight_decay) if decoupled else param
    decayed = g + weight_decay * p if weight_decay and not decoupled else g
    m = exp_avg + (1 - beta1) * (decayed - exp_avg)
    v = beta2 * exp_avg_sq + (1 - beta2) * decayed.square()
    bias1, bias2 = (-torch.expm1(t * (math.log(beta) if beta else -math.inf)) for beta in (beta1, beta2))
    size, correction = (rate / bias1).to(param.dtype), bias2.sqrt().to(param.dtype)
    p = p - size * (m / (v.sqrt() / correction + eps))
    everywhere = go.reshape(())
    for old, new in ((param, p), (exp_avg, m), (exp_avg_sq, v)):
        old.copy_(torch.where(everywhere, new, old))
    if shadow is not None:
        shadow.copy_(torch.where(everywhere, param.to(shadow.dtype).reshape(shadow.shape), shadow))
    step.add_(go.to(step.dtype))
    if zero_grad:
        grad.zero_()
    elif grad_scale is not None:
        grad.copy_(torch.where(everywhere, g, grad))
