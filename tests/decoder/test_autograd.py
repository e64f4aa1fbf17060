"""features() as autograd sees it: any gradients from above, twice over one graph, inside of checkpoints and modes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ldp_fast.decoder import FrozenDecoder

from ..ops.common import bitwise_equal
from .common import all_levels, architecture, own_features, scaling

MEMORY = pytest.mark.parametrize("memory", ["save", "recompute"])
# By hand with Winograd, by hand with torch's convolutions, by autograd.
NAMES = pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis 2", "tiny"])


def make(name: str, memory: Any, dtype: torch.dtype = torch.float32) -> tuple[Any, FrozenDecoder, Tensor]:
    vae = architecture(name).to(dtype)
    decoder = FrozenDecoder(vae, all_levels(vae), memory=memory, **scaling(vae))
    return vae, decoder, torch.randn(2, 4, 3, 4, dtype=dtype, requires_grad=True)


def loss_of(features: list[Tensor]) -> Tensor:
    return torch.stack([x.square().mean() for x in features]).sum()


def gradient(features: Callable[[Tensor], list[Tensor]], latents: Tensor) -> Tensor:
    return torch.autograd.grad(loss_of(features(latents)), latents)[0]


@MEMORY
@pytest.mark.parametrize("name", ["sd1", "tiny"])
def test_gradients_from_some_levels_alone(name: str, memory: Any) -> None:
    """Every subset, in float64: the levels that nobody used have no gradient, nor are they gone through."""
    vae, decoder, latents = make(name, memory, torch.float64)
    count = len(decoder.levels)
    upstream = [torch.randn_like(x) for x in decoder.features(latents)]
    for size in range(1, count + 1):
        for used in itertools.combinations(range(count), size):
            ours, theirs = decoder.features(latents), own_features(vae, latents, decoder.levels)
            grads = [
                torch.autograd.grad([found[i] for i in used], latents, [upstream[i] for i in used])[0]
                for found in (ours, theirs)
            ]
            torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9 * float(grads[1].abs().max()), msg=str(used))


@MEMORY
def test_an_unused_level_costs_nothing_and_hides_nothing(memory: Any) -> None:
    """Its zeros would become NaN in the blocks of a level that overflowed."""
    vae, whole, latents = make("sd1", memory)
    expected = torch.autograd.grad(whole.features(latents)[0].sum(), latents)[0]
    vae.decoder.up_blocks[1].resnets[0].conv1.weight.fill_(float("inf"))
    mid, *deeper = FrozenDecoder(vae, whole.levels, memory=memory).features(latents)
    assert not deeper[-1].isfinite().any()
    assert bitwise_equal(torch.autograd.grad(mid.sum(), latents)[0], expected)


@MEMORY
@NAMES
def test_two_backwards_over_one_graph(name: str, memory: Any) -> None:
    _, decoder, latents = make(name, memory)
    loss = loss_of(decoder.features(latents))
    first = torch.autograd.grad(loss, latents, retain_graph=True)[0]
    second = torch.autograd.grad(loss, latents)[0]
    assert first.any() and bitwise_equal(first, second)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, latents)


@MEMORY
@NAMES
def test_a_gradient_of_the_gradient_is_an_error(name: str, memory: Any) -> None:
    _, decoder, latents = make(name, memory)
    (grad,) = torch.autograd.grad(loss_of(decoder.features(latents)), latents, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@MEMORY
@NAMES
def test_inside_of_a_checkpoint(name: str, memory: Any) -> None:
    _, decoder, latents = make(name, memory)
    expected = gradient(decoder.features, latents)
    for reentrant in (False, True):
        latents.grad = None
        checkpoint(lambda x: loss_of(decoder.features(x)), latents, use_reentrant=reentrant).backward()
        assert latents.grad is not None and bitwise_equal(latents.grad, expected)


@MEMORY
@NAMES
def test_what_is_kept_may_be_packed_away(name: str, memory: Any) -> None:
    """As torch.autograd.graph.save_on_cpu does."""
    _, decoder, latents = make(name, memory)
    expected = gradient(decoder.features, latents)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().numpy().copy("K"), torch.from_numpy):
        loss = loss_of(decoder.features(latents))
    assert bitwise_equal(torch.autograd.grad(loss, latents)[0], expected)


@MEMORY
@NAMES
def test_autocast_changes_neither_pass(name: str, memory: Any) -> None:
    _, decoder, latents = make(name, memory)
    expected, features = gradient(decoder.features, latents), decoder.features(latents)
    with torch.autocast("cpu", torch.bfloat16):
        inside = decoder.features(latents)
        loss = torch.stack([x.square().mean() for x in inside]).sum()
        (grad,) = torch.autograd.grad(loss, latents)
    assert all(bitwise_equal(x, y) for x, y in zip(inside, features, strict=True))
    assert bitwise_equal(grad, expected)


@NAMES
def test_without_a_graph_the_features_are_the_same(name: str) -> None:
    _, decoder, latents = make(name, "save")
    expected = decoder.features(latents)
    results = [decoder.features(latents.detach())]
    with torch.no_grad():
        results.append(decoder.features(latents))
    with torch.inference_mode():
        results.append(decoder.features(latents))
        made_inside = latents.clone()
    results.append(decoder.features(made_inside))
    for result in results:
        assert all(not x.requires_grad and bitwise_equal(x, y) for x, y in zip(result, expected, strict=True))


@MEMORY
def test_features_changed_in_place_are_noticed(memory: Any) -> None:
    _, decoder, latents = make("sd1", memory)
    mid, *deeper = decoder.features(latents)
    mid.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(deeper[-1].sum(), latents)


@MEMORY
@NAMES
def test_the_caller_s_gradients_stay_as_they_are(name: str, memory: Any) -> None:
    """The layers add to gradients in place: to copies."""
    _, decoder, latents = make(name, memory)
    features = decoder.features(latents)
    upstream = [torch.randn_like(x) for x in features]
    before = [x.clone() for x in upstream]
    torch.autograd.grad(features, latents, upstream)
    assert all(bitwise_equal(x, y) for x, y in zip(upstream, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@NAMES
def test_parameters_that_want_gradients_get_none_and_stay_as_they_were(name: str, dtype: torch.dtype) -> None:
    vae, frozen, latents = make(name, "save")
    expected = gradient(frozen.features, latents)
    vae.requires_grad_(True)
    before = {key: value.clone() for key, value in vae.state_dict().items()}
    decoder = FrozenDecoder(vae, frozen.levels, dtype=dtype, **scaling(vae))
    decoder.feature_matching(latents, latents + 1.0)
    grad = gradient(decoder.features, latents)
    if dtype == torch.float32:
        assert bitwise_equal(grad, expected)
    assert all(p.requires_grad and p.grad is None and p.dtype == torch.float32 for p in vae.parameters())
    assert all(torch.equal(value, before[key]) for key, value in vae.state_dict().items())


def test_the_gradient_goes_on_to_whatever_made_the_latents() -> None:
    vae, decoder, _ = make("sd1", "save", torch.float64)
    image = torch.randn(1, 4, 6, 8, dtype=torch.float64, requires_grad=True)

    def latents() -> Tensor:
        return torch.nn.functional.avg_pool2d(image, 2).tanh()

    loss, other = loss_of(decoder.features(latents())), loss_of(own_features(vae, latents(), decoder.levels))
    torch.testing.assert_close(*(torch.autograd.grad(x, image)[0] for x in (loss, other)), rtol=1e-9, atol=1e-12)


def norm_of(vae: Any) -> Any:
    return next(m for m in vae.decoder.modules() if isinstance(m, torch.nn.GroupNorm))


def of_a_fallback(vae: Any) -> Any:
    """Its first block with a hook, which makes autograd run it."""
    block = vae.decoder.mid_block.resnets[0]
    if not block._forward_hooks:
        block.register_forward_hook(lambda module, args, out: out * 1.0)
    return block


def more_groups(vae: Any) -> None:
    norm_of(vae).num_groups *= 2


BETWEEN: dict[str, tuple[bool, Callable[[Any], Any]]] = {
    "eps by hand": (False, lambda vae: setattr(norm_of(vae), "eps", 0.5)),
    "groups by hand": (False, more_groups),
    "eps": (True, lambda vae: setattr(of_a_fallback(vae).norm1, "eps", 0.5)),
    "factor": (True, lambda vae: setattr(of_a_fallback(vae), "output_scale_factor", 2.0)),
    "activation": (True, lambda vae: setattr(of_a_fallback(vae), "nonlinearity", torch.nn.ReLU())),
    "hook": (True, lambda vae: of_a_fallback(vae).conv1.register_forward_hook(lambda module, args, out: 2 * out)),
    "method": (True, lambda vae: setattr(of_a_fallback(vae).conv1, "forward", lambda x: x)),
}


@MEMORY
@pytest.mark.parametrize("change", BETWEEN)
def test_a_block_that_changes_between_forward_and_backward(change: str, memory: Any) -> None:
    """Recomputed, it gave the gradient of another function; what is kept is kept."""
    fallback, apply = BETWEEN[change]
    vae, _, latents = make("sd1", memory, torch.float64)
    if fallback:
        of_a_fallback(vae)
    decoder = FrozenDecoder(vae, ("mid", "up0"), memory=memory)
    assert bool(decoder.fallbacks) is fallback
    expected, features = gradient(decoder.features, latents), decoder.features(latents)
    apply(vae)
    if memory == "recompute":
        with pytest.raises(RuntimeError, match="expected the VAE in the backward as it was in the forward"):
            torch.autograd.grad(loss_of(features), latents)
    else:
        assert bitwise_equal(torch.autograd.grad(loss_of(features), latents)[0], expected)


def test_what_a_block_counts_is_no_change() -> None:
    vae, _, latents = make("sd1", "recompute")
    block = of_a_fallback(vae)
    block.calls = 0

    def count(module: Any, args: Any) -> None:
        module.calls += 1

    block.register_forward_pre_hook(count)
    decoder = FrozenDecoder(vae, ("mid",), memory="recompute")
    first, second = decoder.features(latents), decoder.features(latents)
    vae.decoder.conv_in.train()  # which no layer by hand reads
    grads = [torch.autograd.grad(loss_of(x), latents)[0] for x in (first, second)]
    assert block.calls >= 4 and bitwise_equal(*grads)
