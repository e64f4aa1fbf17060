"""Which layers are trained: those whose entries of w⁺ one step of the guidance would move most (StyleGAN-NADA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError
from ...runs import distributed

# Of the step on w⁺, plain gradient descent: ranks do not depend on it, the changes that are logged do.
RATE = 0.01


def layers_of(generator: Any) -> list[str]:
    """Names of the layers that can be selected, one an entry of w⁺: conv1, to_rgb1, convs.0, convs.1, …

    So NADA and StyleGANFusion count them. The entry of w⁺ that is counted is not always the one that steers the layer:
    convs.0 is steered by the second, as to_rgb1 is, and counted by the third.

    Raises:
        UsageError: the generator does not say which layers it has.
    """
    if not hasattr(generator, "styled"):
        raise UsageError("--select-layers: expected a generator that names its layers (styled()); this one does not")
    return [name for name in generator.styled() if not name.startswith("to_rgbs.")]


def check_layers(generator: Any, count: int) -> None:
    """Checks that so many layers can be selected.

    Raises:
        UsageError: there are fewer, or they are not known.
    """
    there = len(layers_of(generator))
    if count > there:
        raise UsageError(f"--select-layers: expected at most {there}, the layers of the generator; got {count}")


def changes(
    generator: Any, w: Tensor, noise: Any, gradient: Callable[[Tensor], Tensor], world: int = 1
) -> Tensor:
    """How far one step on w⁺ moves each entry: mean |Δw|, [L].

    Args:
        generator: the trained one.
        w: [B, L, W], this rank's samples.
        noise: what `synthesis` takes; None is not passed.
        gradient: dL/d pictures [B, 3, R, R] of pictures.
        world: how many ranks have as many samples, over which the mean is.
    """
    leaf = w.detach().clone().requires_grad_()
    pictures = generator.synthesis(leaf) if noise is None else generator.synthesis(leaf, noise=noise)
    (found,) = torch.autograd.grad(pictures, leaf, gradient(pictures.detach()))
    moved = RATE * found.float().abs().mean(2).sum(0)
    sums = torch.cat([moved, moved.new_tensor([float(len(w))])])
    if world > 1:
        distributed.add(sums)
    return sums[:-1] / sums[-1]


def chosen(layers: Sequence[str], moved: Tensor, count: int) -> list[str]:
    """The layers that were moved most, in their own order. Waits for the device.

    Args:
        layers: of `layers_of`.
        moved: of `changes`.
        count: how many.
    """
    best = set(torch.argsort(moved, descending=True, stable=True)[:count].tolist())
    return [name for index, name in enumerate(layers) if index in best]


def train_only(parameters: Mapping[str, nn.Parameter], layers: Sequence[str]) -> None:
    """Lets gradients flow into the parameters of these layers alone; an optimiser leaves the others as they are."""
    for name, p in parameters.items():
        p.requires_grad_(any(name.startswith(f"{layer}.") for layer in layers))
        p.grad = None
