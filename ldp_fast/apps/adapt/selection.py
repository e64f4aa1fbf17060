"""Which layers are trained: those whose entries of w⁺ one step of the guidance would move most (StyleGAN-NADA)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import UsageError

# Of the step on w⁺, plain gradient descent: which entries move most does not depend on it.
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


def moved(generator: Any, w: Tensor, noise: Any, gradient: Callable[[Tensor], Tensor]) -> Tensor:
    """How far one step on w⁺ moves each entry: mean |Δw| over its numbers, summed over the samples, [L] float32.

    Args:
        generator: the trained one.
        w: [B, L, W].
        noise: what `synthesis` takes; None is not passed.
        gradient: dL/d pictures [B, 3, R, R] of pictures.
    """
    leaf = w.detach().clone().requires_grad_()
    pictures = generator.synthesis(leaf) if noise is None else generator.synthesis(leaf, noise=noise)
    (found,) = torch.autograd.grad(pictures, leaf, gradient(pictures.detach()))
    return RATE * found.float().abs().mean(2).sum(0)


def chosen(layers: Sequence[str], changes: Tensor, count: int) -> list[str]:
    """The layers that were moved most, in their own order. Waits for the device.

    Args:
        layers: of `layers_of`.
        changes: of `moved`.
        count: how many.
    """
    best = set(torch.argsort(changes, descending=True, stable=True)[:count].tolist())
    return [name for index, name in enumerate(layers) if index in best]


def trains(layer: str, names: Iterable[str]) -> bool:
    """Whether some of these parameters are the layer's."""
    return any(name.startswith(f"{layer}.") for name in names)


def within(names: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Names of the parameters that are in one of the layers.

    Raises:
        UsageError: none is.
    """
    found = [name for name in names if any(name.startswith(f"{layer}.") for layer in layers)]
    if not found:
        raise UsageError(f"--train: expected something within the layers to select from, {', '.join(layers)}")
    return found


def train_only(parameters: Mapping[str, nn.Parameter], layers: Sequence[str]) -> None:
    """Lets gradients flow into the parameters of these layers alone; an optimiser leaves the others as they are."""
    trained = set(within(list(parameters), layers))
    for name, p in parameters.items():
        p.requires_grad_(name in trained)
        p.grad = None
