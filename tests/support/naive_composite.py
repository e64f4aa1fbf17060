"""Compositing written from its definition, twice: loops over numbers in NumPy, and differentiable PyTorch by ray."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = ("values", "opacity", "depth", "weights", "distortion", "emptiness")


def loop(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    background: Tensor | None,
    early_stop: float,
    emptiness_scale: float,
) -> list[np.ndarray]:
    """One sample after another in float64; the distortion over all pairs."""
    sigma, c, t, delta = (x.detach().double().cpu().numpy() for x in (density, values, distances, steps))
    offsets, rays = ray_offsets.tolist(), len(ray_offsets) - 1
    out = [np.zeros((rays, c.shape[1])), *(np.zeros(rays) for _ in range(2)), np.zeros(len(sigma))]
    out += [np.zeros(rays), np.zeros(rays)]
    for r in range(rays):
        transmittance, kept = 1.0, []
        for i in range(offsets[r], offsets[r + 1]):
            if transmittance < early_stop:
                break
            x = sigma[i] * delta[i]
            out[3][i] = transmittance * -np.expm1(-x)
            transmittance *= np.exp(-x)
            kept.append(i)
        w = out[3]
        for i in kept:
            out[0][r] += w[i] * c[i]
            out[1][r] += w[i]
            out[2][r] += w[i] * t[i]
            out[4][r] += sum(w[i] * w[j] * abs(t[i] - t[j]) for j in kept) + w[i] ** 2 * delta[i] / 3
            out[5][r] += np.log(1 + emptiness_scale * w[i])
        if background is not None:
            out[0][r] += (1 - out[1][r]) * background[r].detach().double().cpu().numpy()
    return out


def textbook(
    density: Tensor,
    values: Tensor,
    distances: Tensor,
    steps: Tensor,
    ray_offsets: Tensor,
    background: Tensor | None,
    early_stop: float,
    emptiness_scale: float,
) -> list[Tensor]:
    """What one would write down: products of 1 − α, all pairs for the distortion; differentiable by autograd."""
    offsets: list[int] = ray_offsets.tolist()
    columns: list[list[Tensor]] = [[] for _ in NAMES]
    for r, (first, last) in enumerate(pairwise(offsets)):
        t, delta, c = distances[first:last], steps[first:last], values[first:last]
        alpha = 1 - torch.exp(-density[first:last] * delta)
        passed = torch.cumprod(torch.cat([alpha.new_ones(1), 1 - alpha]), 0)[:-1]
        stop = int((passed.detach() < early_stop).long().cumsum(0).eq(0).sum())
        w, t, delta, c = (passed * alpha)[:stop], t[:stop], delta[:stop], c[:stop]
        behind = 0 if background is None else (1 - w.sum()) * background[r]
        pairs = (w[:, None] * w[None] * (t[:, None] - t[None]).abs()).sum()
        distortion = pairs + (w.square() * delta).sum() / 3
        row = ((w[:, None] * c).sum(0) + behind, w.sum(), (w * t).sum())
        row += (torch.cat([w, w.new_zeros(last - first - stop)]), distortion, (1 + emptiness_scale * w).log().sum())
        for column, entry in zip(columns, row, strict=True):
            column.append(entry)
    if not columns[0]:
        nothing = density.new_zeros(0)
        return [values.new_zeros(0, values.shape[1]), nothing, nothing, torch.zeros_like(density), nothing, nothing]
    padding = density.new_zeros(len(density) - offsets[-1])
    weights = torch.cat([*columns[3], padding])
    return [weights if name == "weights" else torch.stack(column) for name, column in zip(NAMES, columns, strict=True)]


def gradients(function: Any, inputs: dict[str, Any], which: int) -> list[Tensor]:
    """Gradients of density, values and background, from the outputs whose bit is set, with uneven weights."""
    leaves = {
        k: x.detach().clone().requires_grad_()
        for k, x in inputs.items()
        if k in ("density", "values", "background") and x is not None
    }
    outputs = [x for k, x in enumerate(function(**inputs | leaves)) if which >> k & 1]
    factors = [torch.linspace(-1, 1, max(x.numel(), 1), dtype=torch.float64)[: x.numel()] for x in outputs]
    loss = sum((x * f.view(x.shape).to(x)).sum() for x, f in zip(outputs, factors, strict=True))
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves.values(), strict=True)]
