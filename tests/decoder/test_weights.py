"""The decoder computes with the weights that the VAE has now, whoever changed them, however, and in what precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ldp_fast.decoder import FrozenDecoder
from ldp_fast.decoder.derive import cast, once, one_pass

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


def new_data(vae: nn.Module) -> None:
    for parameter in vae.parameters():
        parameter.data = parameter.data * 1.1


def data_in_place(vae: nn.Module) -> None:
    """No version is counted up: moving averages (diffusers', torch_ema) and adapters that are merged write so."""
    for parameter in vae.parameters():
        parameter.data.mul_(1.1)


def through_numpy(vae: nn.Module) -> None:
    for parameter in vae.parameters():
        parameter.detach().numpy()[...] *= 1.1


def fused_optimiser(vae: nn.Module) -> None:
    """Torch's fused kernels count up no version."""
    vae.requires_grad_(True)
    for parameter in vae.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(vae.parameters(), lr=0.1, fused=True).step()


def moving_average(vae: nn.Module) -> None:
    from diffusers.training_utils import EMAModel

    average = EMAModel([nn.Parameter(1.1 * p.detach()) for p in vae.parameters()])
    average.copy_to(vae.parameters())


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


CHANGES = (
    in_place,
    loaded,
    assigned,
    new_data,
    data_in_place,
    through_numpy,
    fused_optimiser,
    moving_average,
    there_and_back,
    channels_last,
    replaced,
    without_bias,
)


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


@pytest.mark.parametrize("change", [in_place, data_in_place, fused_optimiser], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "tiny"])
def test_another_precision_follows_too(name: str, change: Callable[[nn.Module], None]) -> None:
    """Nothing is copied: `dtype=` is how the VAE's own weights are read."""
    vae = architecture(name)
    latents = torch.randn(1, 4, 4, 5)
    decoder = FrozenDecoder(vae, ("up0", "up1"), dtype=torch.bfloat16)
    before = decoder.features(latents)
    change(vae)
    after = decoder.features(latents)
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    fresh = FrozenDecoder(vae, ("up0", "up1"), dtype=torch.bfloat16).features(latents)
    assert all(bitwise_equal(x, y) for x, y in zip(after, fresh, strict=True))
    assert not any(bitwise_equal(x, y) for x, y in zip(after, before, strict=True))


def test_an_upcast_vae_is_followed_and_left_in_its_precision() -> None:
    vae = architecture("sdxl").half()
    decoder = FrozenDecoder(vae, ("up0", "up1"))
    latents = torch.randn(1, 4, 4, 5)
    before = decoder.features(latents)
    in_place(vae)
    after = decoder.features(latents)
    assert decoder.dtype == torch.float32 and all(p.dtype == torch.float16 for p in vae.parameters())
    own = FrozenDecoder(copy.deepcopy(vae).float(), ("up0", "up1")).features(latents)
    assert all(bitwise_equal(x, y) for x, y in zip(after, own, strict=True))
    assert not bitwise_equal(after[0], before[0])


@pytest.mark.parametrize("name", ["sd1", "compvis", "tiny"])
def test_a_vae_that_takes_another_precision_afterwards(name: str) -> None:
    vae = architecture(name)
    latents = torch.randn(1, 4, 4, 5)
    decoder = FrozenDecoder(vae, ("up0", "up1"), **scaling(vae))
    decoder.features(latents)
    vae.bfloat16()
    assert decoder.dtype == torch.bfloat16
    fresh = FrozenDecoder(vae, ("up0", "up1"), **scaling(vae)).features(latents)
    assert all(bitwise_equal(x, y) for x, y in zip(decoder.features(latents), fresh, strict=True))


def test_weights_made_in_inference_mode() -> None:
    """They have no version, autograd will not have them, and they are followed all the same."""
    vae, latents = architecture("sd1"), torch.randn(1, 4, 4, 5, requires_grad=True)
    with torch.inference_mode():
        inside = copy.deepcopy(vae)
    assert next(inside.parameters()).is_inference()
    decoder = FrozenDecoder(inside, ("up0", "up1"))

    def pair(features: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        return (*features, *torch.autograd.grad(sum(x.sum() for x in features), latents))

    def check() -> tuple[torch.Tensor, ...]:
        ours, plain = pair(decoder.features(latents)), pair(FrozenDecoder(vae, ("up0", "up1")).features(latents))
        assert all(bitwise_equal(x, y) for x, y in zip(ours, plain, strict=True))
        return ours

    before = check()
    in_place(vae)
    with torch.inference_mode():
        in_place(inside)
    assert not bitwise_equal(check()[0], before[0])


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("change", [in_place, new_data, replaced], ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", ["sd1", "compvis 2"])
def test_weights_that_change_between_forward_and_backward(name: str, change: Any, memory: Any) -> None:
    """As autograd itself has it: an error, not a gradient of something else."""
    vae = architecture(name)
    decoder = FrozenDecoder(vae, ("up0", "up1"), memory=memory, **scaling(vae))
    latents = torch.randn(1, 4, 4, 5, requires_grad=True)
    loss = sum(x.sum() for x in decoder.features(latents))
    change(vae)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, latents)


def test_what_is_derived_is_made_once_a_pass_and_kept_no_longer() -> None:
    made: list[int] = []
    weight, owner = nn.Parameter(torch.randn(3)), nn.Identity()

    def derived() -> torch.Tensor:
        def make() -> torch.Tensor:
            made.append(1)
            return 2 * weight

        return once(owner, "double", make)

    for count in (1, 2):
        with one_pass():
            with one_pass():
                first = derived()
            assert derived() is first and len(made) == count and not first.requires_grad
        weight.data.add_(1.0)
    assert derived() is not derived() and torch.equal(derived(), 2 * weight.detach())


def test_a_weight_of_the_right_precision_is_not_copied() -> None:
    weight = nn.Parameter(torch.randn(3))
    same = cast(weight, "w", weight, torch.float32)
    assert same is not None and same.data_ptr() == weight.data_ptr() and not same.requires_grad
    assert cast(weight, "w", None, torch.float32) is None
