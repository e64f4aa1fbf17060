"""What happens to a VAE after the decoder was made: attributes, hooks, adapters, modes, copies, threads."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast.decoder import FrozenDecoder

from ..ops.common import bitwise_equal
from ..support import processes
from .common import all_levels, architecture, check_features, kl, scaling
from .test_recognise import CHANGES, LoRA, attention_of, doubled_gradient, resnet_of, swap, tiled

LEVELS = ("mid", "up0", "up1")
# Class and forward patches are in test_compare.
LATER = [name for name in CHANGES if name not in ("backward hook", "backward hook on a level")]


@pytest.mark.parametrize("name", LATER)
def test_a_change_that_comes_later_is_noticed(name: str) -> None:
    change, block, reason = CHANGES[name]
    vae = kl(latent_channels=4)
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    before = decoder.features(latents)
    change(vae)
    after = decoder.features(latents)
    assert decoder.fallbacks == {block: reason}
    fresh = FrozenDecoder(vae, LEVELS).features(latents)
    assert all(bitwise_equal(x, y) for x, y in zip(after, fresh, strict=True))
    assert not bitwise_equal(after[-1], before[-1])


def test_padding_that_is_set_later() -> None:
    vae = kl((16, 32), layers=1, latent_channels=4)
    decoder = FrozenDecoder(vae, all_levels(vae))
    assert decoder.fallbacks == {}
    tiled(vae)
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))


def test_hooks_that_come_and_go() -> None:
    vae = kl(latent_channels=4)
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    before = decoder.features(latents)
    for module in (resnet_of(vae), resnet_of(vae).conv1, vae.decoder.up_blocks[0]):
        handle = module.register_forward_hook(lambda m, x, out: 0.5 * out)
        assert len(decoder.fallbacks) == 1 and not bitwise_equal(decoder.features(latents)[-1], before[-1])
        handle.remove()
        assert decoder.fallbacks == {}
        assert all(bitwise_equal(x, y) for x, y in zip(decoder.features(latents), before, strict=True))


def test_a_backward_hook_that_comes_later() -> None:
    vae = kl(latent_channels=4)
    decoder = FrozenDecoder(vae, LEVELS)
    resnet_of(vae).register_full_backward_hook(doubled_gradient)
    check_features(vae, decoder, torch.randn(1, 4, 4, 3))
    assert decoder.fallbacks == {"up0.1": "a hook on ResnetBlock2D"}


def test_a_hook_on_every_module() -> None:
    """nn.Module has hooks of its own, for all modules at once."""
    vae = kl(latent_channels=4)
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    before = decoder.features(latents)
    halve = lambda m, x, out: 0.5 * out if isinstance(m, nn.Conv2d) else None  # noqa: E731
    handle = nn.modules.module.register_module_forward_hook(halve)
    try:
        check_features(vae, decoder, latents)
        assert set(decoder.fallbacks.values()) == {"a hook on every module"}
    finally:
        handle.remove()
    assert decoder.fallbacks == {} and bitwise_equal(decoder.features(latents)[-1], before[-1])


def test_adapters_that_are_put_in_and_merged() -> None:
    """As peft does it: a module in the convolution's place, then the convolution again, its weight written by .data."""
    vae = kl(latent_channels=4)
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    swap(resnet_of(vae), "conv1", LoRA)
    swap(attention_of(vae), "to_q", LoRA)
    assert set(decoder.fallbacks) == {"mid.1", "up0.1"}
    adapted = decoder.features(latents)
    for module, name in ((resnet_of(vae), "conv1"), (attention_of(vae), "to_q")):
        base = getattr(module, name).base
        for parameter in base.parameters():
            parameter.data *= 1.1
        setattr(module, name, base)
    assert decoder.fallbacks == {}
    for x, y in zip(decoder.features(latents), adapted, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_other_entries_in_the_configuration() -> None:
    vae = kl(latent_channels=4, scaling_factor=0.5)
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.1)
    assert (decoder.scaling_factor, decoder.shift_factor) == (0.25, 0.1)
    check_features(vae, decoder, latents)


def test_a_mode_that_is_switched() -> None:
    vae = architecture("compvis")
    decoder = FrozenDecoder(vae, ("mid",), **scaling(vae))
    vae.decoder.mid.block_1.dropout.p = 0.5
    assert decoder.fallbacks == {}
    vae.train()
    assert decoder.fallbacks == {"mid.0": "dropout in training mode"}
    vae.eval()
    assert decoder.fallbacks == {}


def copied(pair: Any) -> Any:
    return copy.deepcopy(pair)


def pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


def saved(pair: Any) -> Any:
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copied, pickled, saved], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", ["sd1", "compvis", "tiny"])
def test_a_copy_computes_with_the_copied_weights(name: str, duplicate: Callable[[Any], Any]) -> None:
    vae, latents = architecture(name), torch.randn(1, 4, 4, 4)
    decoder = FrozenDecoder(vae, ("up0", "up1"), **scaling(vae))
    before = decoder.features(latents)
    other_vae, other = duplicate((vae, decoder))
    assert other.vae is other_vae and other_vae is not vae
    for parameter in other_vae.parameters():
        parameter.data.mul_(1.1)
    fresh = FrozenDecoder(other_vae, ("up0", "up1"), **scaling(vae)).features(latents)
    assert all(bitwise_equal(x, y) for x, y in zip(other.features(latents), fresh, strict=True))
    assert all(bitwise_equal(x, y) for x, y in zip(decoder.features(latents), before, strict=True))
    assert not bitwise_equal(fresh[0], before[0])


def use_and_free_copies() -> None:
    """Three rounds, with what the original computes after each."""
    decoder, v = FrozenDecoder(architecture("sd1")), torch.randn(2, 1, 4, 4, 4)
    expected = decoder.feature_matching(*v)
    for _ in range(3):
        other = copy.deepcopy(decoder)
        other.feature_matching(*v)
        del other
        gc.collect()
        assert all(torch.equal(x, y) for x, y in zip(decoder.feature_matching(*v), expected, strict=True))
    print("whole")


def test_a_copy_that_is_used_and_freed() -> None:
    """Once this ended the process: in one of its own."""
    done = processes.Started(use_and_free_copies).wait()
    assert (done.code, done.out) == (0, "whole\n"), done.err


@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "tiny"])
def test_threads_share_a_decoder(name: str) -> None:
    vae = architecture(name).requires_grad_(True)  # a fallback then swaps the weights of its module
    decoder = FrozenDecoder(vae, ("up0", "up1"))
    inputs = [torch.randn(2, 1, 4, 4, 4) for _ in range(4)]
    expected = [decoder.feature_matching(*x) for x in inputs]
    decoder._last = None  # recognised anew, by whoever comes first
    found: dict[int, Any] = {}

    def work(index: int) -> None:
        for _ in range(3):
            found[index] = decoder.feature_matching(*inputs[index])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, results in enumerate(expected):
        assert all(bitwise_equal(x, y) for x, y in zip(found[index], results, strict=True))
    assert decoder.fallbacks.keys() == FrozenDecoder(vae, ("up0", "up1")).fallbacks.keys()


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("name", ["sd1", "no multiple of 16", "compvis 2", "tiny"])
def test_an_empty_batch(name: str, memory: Any) -> None:
    vae = architecture(name)
    decoder = FrozenDecoder(vae, all_levels(vae), memory=memory, **scaling(vae))
    latents = torch.zeros(0, 4, 4, 4, requires_grad=True)
    features = decoder.features(latents)
    one = decoder.features(torch.zeros(1, 4, 4, 4))
    assert [x.shape for x in features] == [(0, *x.shape[1:]) for x in one]
    assert torch.autograd.grad(sum(x.sum() for x in features), latents)[0].shape == latents.shape
    _, *grads = decoder.feature_matching(latents, latents)
    assert all(g.shape == latents.shape for g in grads)


def test_a_compiled_decoder_of_the_host_is_not_compiled_for_the_comparison() -> None:
    vae = kl(latent_channels=4)
    calls: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(1)
        return graph.forward

    vae.decoder.compile(backend=backend)
    decoder = FrozenDecoder(vae, LEVELS)
    assert not calls and decoder.fallbacks == {}
    latents = torch.randn(1, 4, 4, 3)
    fresh = FrozenDecoder(kl(latent_channels=4), LEVELS)
    assert all(torch.equal(x, y) for x, y in zip(decoder.features(latents), fresh.features(latents), strict=True))


def test_a_compiled_decoder_with_a_parameter_of_zeros_is_compared_once() -> None:
    """Parameters of zeros are waited for in parts that no decoder has; torch.compile's wrapper has none."""
    vae = kl(latent_channels=4)
    with torch.no_grad():
        vae.decoder.conv_norm_out.bias.zero_()
    vae.decoder = torch.compile(vae.decoder, backend="eager")
    decoder, latents = FrozenDecoder(vae, LEVELS), torch.randn(1, 4, 4, 3)
    decoder.features(latents)
    built = decoder._last
    decoder.features(latents)
    assert built is not None and decoder._last is built


def test_what_a_decoder_says_of_itself_can_be_read_in_one_graph() -> None:
    """In a caller that is compiled whole; looking whether the VAE is as it was cannot be traced."""
    decoder, x = FrozenDecoder(kl(latent_channels=4, scaling_factor=0.5), LEVELS), torch.randn(3)

    def read(x: torch.Tensor) -> tuple[Any, ...]:
        return x * decoder.scaling_factor + decoder.shift_factor, decoder.fallbacks

    compiled = torch.compile(read, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x)[0], 0.5 * x) and compiled(x)[1] == {}


def test_looking_calls_nothing() -> None:
    """No module, no operator: a pass on a GPU must not wait for it."""
    decoder = FrozenDecoder(architecture("sd1"))
    built = decoder._built()
    ran: list[Any] = []

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            ran.append(function)
            return function(*args, **(kwargs or {}))

    with Watched():
        assert decoder._built() is built
    assert not ran
