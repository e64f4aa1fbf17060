"""What is derived from the VAE's weights follows them: folded convolutions, joined projections, summed biases."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.decoder.layers import Derived

from ..ops.common import bitwise_equal
from .common import all_levels, architecture, scaling

NAMES = pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis 2"])


def scaled(vae: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value * (1.1 if value.is_floating_point() else 1) for key, value in vae.state_dict().items()}


def in_place(vae: nn.Module) -> None:
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(1.1)


def loaded(vae: nn.Module) -> None:
    vae.load_state_dict(scaled(vae))


def assigned(vae: nn.Module) -> None:
    vae.load_state_dict(scaled(vae), assign=True)


def assigned_twice(vae: nn.Module) -> None:
    """The second weights may well lie where the first lay."""
    for _ in range(2):
        assigned(vae)


def new_data(vae: nn.Module) -> None:
    for parameter in vae.parameters():
        parameter.data = parameter.data * 1.1


def there_and_back(vae: nn.Module) -> None:
    """Rounded to bfloat16, and float32 again."""
    vae.to(torch.bfloat16).to(torch.float32)


def channels_last(vae: nn.Module) -> None:
    vae.to(memory_format=torch.channels_last)


def replaced(vae: Any) -> None:
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = nn.Parameter(module.weight * 1.1, requires_grad=False)
            module.bias = nn.Parameter(module.bias * 1.1, requires_grad=False)


def without_bias(vae: Any) -> None:
    for module in vae.decoder.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None


CHANGES = (in_place, loaded, assigned, assigned_twice, new_data, there_and_back, channels_last, replaced, without_bias)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@NAMES
def test_changed_weights_are_seen(name: str, change: Callable[[nn.Module], None]) -> None:
    vae = architecture(name)
    latents, other = torch.randn(1, 4, 4, 5), torch.randn(1, 4, 4, 5)
    decoder = FrozenDecoder(vae, all_levels(vae), **scaling(vae))
    before = decoder.feature_matching(latents, other)
    change(vae)
    after = decoder.feature_matching(latents, other)
    fresh = FrozenDecoder(vae, all_levels(vae), **scaling(vae)).feature_matching(latents, other)
    assert all(bitwise_equal(x, y) for x, y in zip(after, fresh, strict=True))
    if change is not channels_last:
        assert not bitwise_equal(after[1], before[1])


@pytest.mark.parametrize("name", ["sd1", "tiny"])
def test_a_copy_in_another_precision_is_the_decoder_s_own(name: str) -> None:
    vae = architecture(name)
    latents = torch.randn(1, 4, 4, 5)
    decoder = FrozenDecoder(vae, ("up0", "up1"), dtype=torch.bfloat16)
    expected = decoder.features(latents)
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    in_place(vae)
    assert all(bitwise_equal(x, y) for x, y in zip(decoder.features(latents), expected, strict=True))


def test_weights_made_in_inference_mode() -> None:
    """They have no version, and autograd will not have them."""
    vae, latents = architecture("sd1"), torch.randn(1, 4, 4, 5, requires_grad=True)
    with torch.inference_mode():
        inside = copy.deepcopy(vae)
    assert next(inside.parameters()).is_inference()
    pairs = []
    for each in (vae, inside):
        features = FrozenDecoder(each, ("up0", "up1")).features(latents)
        pairs.append((*features, *torch.autograd.grad(sum(x.sum() for x in features), latents)))
    assert all(bitwise_equal(x, y) for x, y in zip(*pairs, strict=True))


def test_derived_values_are_made_once() -> None:
    made: list[int] = []
    weight = nn.Parameter(torch.randn(3))

    def make(w: torch.Tensor) -> torch.Tensor:
        made.append(1)
        return 2 * w

    derived = Derived(make, lambda: (weight,))
    assert derived() is derived() and len(made) == 1 and not derived().requires_grad
    weight.grad = torch.ones(3)
    derived()
    assert len(made) == 1
    with torch.no_grad():
        weight.add_(1.0)
    assert torch.equal(derived(), 2 * weight.detach()) and len(made) == 2


def test_derived_values_follow_parameters_that_come_and_go() -> None:
    module = nn.Linear(2, 2)
    derived = Derived(lambda w, b: w if b is None else w + b, lambda: (module.weight, module.bias))
    with_bias = derived()
    module.bias = None
    assert not torch.equal(derived(), with_bias) and torch.equal(derived(), module.weight.detach())
    moved = nn.Parameter(module.weight.detach().double(), requires_grad=False)
    module.weight = moved
    assert derived().dtype == torch.float64


def test_an_address_that_is_given_out_again_is_another_weight() -> None:
    """Freed memory comes back for the next tensor of its size, whose version is 0 too."""
    held: list[torch.Tensor] = [torch.full((1000,), 0.0)]
    derived = Derived(lambda w: w.clone(), lambda: tuple(held))
    addresses = set()
    for value in range(50):
        address = held[0].data_ptr()
        assert derived()[0] == value
        addresses.add(address)
        held.clear()
        held.append(torch.full((1000,), float(value + 1)))
    if len(addresses) == 50:
        pytest.skip("this allocator gave out no address twice")
