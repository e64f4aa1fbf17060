"""The frozen decoder on CUDA: equality with the VAE's own code, graphs, no synchronisation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from ldp_fast._precision import in_tf32
from ldp_fast.decoder import FrozenDecoder

from ..ops.common import bitwise_equal
from ..support.gpu import size
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import all_levels, architecture, check_features, latent_channels, scaling
from .flips import assert_same_but_for_flips, flips
from .test_attention import by_torch, drawn, ours

pytestmark = pytest.mark.gpu

TF32 = pytest.mark.parametrize("tf32", [False, True])
MEMORY = pytest.mark.parametrize("memory", ["save", "recompute"])


def on_gpu(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return architecture(name).to("cuda", dtype)


def latents_for(vae: Any, batch: int = 2) -> tuple[Tensor, Tensor]:
    v, noise = (torch.randn(batch, latent_channels(vae), 7, 5).cuda() for _ in range(2))
    return v, v + 0.5 * noise


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sd1", "flux", "no multiple of 16", "no attention", "compvis 2", "tiny"])
def test_equals_the_vae_s_own_decoder(name: str, dtype: torch.dtype) -> None:
    vae = on_gpu(name, dtype)
    decoder = FrozenDecoder(vae, all_levels(vae), dtype=dtype, **scaling(vae))
    check_features(vae, decoder, latents_for(vae)[0])


@MEMORY
def test_float64_is_the_same_as_on_the_cpu(memory: Any) -> None:
    vae = architecture("sd1").double()
    v, v_prime = (x.double() for x in latents_for(vae))
    ours = FrozenDecoder(vae.cuda(), all_levels(vae), memory=memory).feature_matching(v, v_prime)
    theirs = FrozenDecoder(vae.cpu(), all_levels(vae)).feature_matching(v.cpu(), v_prime.cpu())
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-9, atol=1e-9 * float(y.abs().max()))


@MEMORY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_feature_matching_equals_that_in_float64(dtype: torch.dtype, memory: Any) -> None:
    """In direction: signs of nearly equal features flip."""
    vae = architecture("sd1")
    v, v_prime = latents_for(vae)
    truth = FrozenDecoder(vae.double()).feature_matching(v.cpu().double(), v_prime.cpu().double())
    decoder = FrozenDecoder(vae.to("cuda", torch.float32), memory=memory, dtype=dtype)
    loss, *grads = decoder.feature_matching(v, v_prime)
    assert abs(float(loss) / float(truth[0]) - 1) < 0.02
    for x, y in zip(grads, truth[1:], strict=True):
        assert torch.nn.functional.cosine_similarity(x.cpu().double().flatten(), y.flatten(), dim=0) > 0.97


def replays(decoder: FrozenDecoder, vae: Any) -> Iterator[tuple[Any, Any, tuple[Tensor, Tensor]]]:
    """Results of a captured pass and of an eager one, on two inputs."""
    v, v_prime = latents_for(vae)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            decoder.feature_matching(v, v_prime)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = decoder.feature_matching(v, v_prime)
    for seed in (1, 2):
        torch.manual_seed(seed)
        for x, y in zip((v, v_prime), latents_for(vae), strict=True):
            x.copy_(y)
        graph.replay()
        yield captured, decoder.feature_matching(v, v_prime), (v, v_prime)


@MEMORY
@pytest.mark.parametrize("attention", ["sdpa", "plain"])
@pytest.mark.parametrize("name", ["sd1", "compvis 2"])
def test_replays_have_the_bits_of_the_eager_pass(
    name: str, attention: str, memory: Any, deterministic: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDP_FAST_ATTENTION", attention)
    vae = on_gpu(name, torch.bfloat16)
    decoder = FrozenDecoder(vae, ("up0", "up1", "up2"), memory=memory, **scaling(vae))
    for captured, eager, _ in replays(decoder, vae):
        assert all(bitwise_equal(x, y) for x, y in zip(captured, eager, strict=True))


@TF32
def test_replays_with_torch_s_own_settings(tf32: bool) -> None:
    """cuDNN may take other algorithms in a graph, and its gradients may add in any order: signs may flip."""
    torch.backends.cudnn.allow_tf32 = tf32
    vae = on_gpu("sd1")
    decoder, exact = FrozenDecoder(vae), FrozenDecoder(copy.deepcopy(vae).double())
    for captured, eager, inputs in replays(decoder, vae):
        torch.testing.assert_close(captured[0], eager[0], rtol=1e-2 if tf32 else 1e-5, atol=0)
        allowed = flips(decoder, exact, *inputs)
        for x, y, added in zip(captured[1:], eager[1:], (allowed.grad_v, allowed.grad_v_prime), strict=True):
            assert_same_but_for_flips(x, y, added, rounding=1e-2 if tf32 else 1e-4)


def test_torch_s_own_tf32_is_obeyed_and_left_alone() -> None:
    """A user of float32 has what torch's own decoder has: the rule holds with both in TF32."""
    torch.backends.cudnn.allow_tf32 = True
    vae = on_gpu("sd1")
    decoder = FrozenDecoder(vae, all_levels(vae))
    assert decoder.fallbacks == {}
    check_features(vae, decoder, latents_for(vae)[0])
    assert in_tf32() == ("convolutions",)


@TF32
def test_a_block_that_is_off_by_a_little_is_seen_without_tf32(tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With it that is within the rounding that both sides may have."""
    torch.backends.cudnn.allow_tf32 = tf32
    own, vae = ResnetBlock2D.forward, on_gpu("sd1")
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, x, temb, *args: own(self, x, temb, *args) * 1.002)
    reasons = {reason.split(" (")[0] for reason in FrozenDecoder(vae, ("up0",)).fallbacks.values()}
    assert reasons == (set() if tf32 else {"its own code gives other values"})


@pytest.mark.parametrize("way", ["sdpa", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_attention_at_the_size_of_stable_diffusion(
    dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One head of 512: flash and cuDNN do not take it."""
    monkeypatch.setenv("LDP_FAST_ATTENTION", way)
    given = [x.cuda() for x in drawn((2, 1, size(4096, 1200), size(512, 16)), dtype)]
    results = zip(ours(*given), by_torch(*given), by_torch(*(x.double() for x in given)), strict=True)
    for i, (x, y, z) in enumerate(results):
        assert_close(x, y, z, factor=GRADIENT if i else OUTPUT, what=("result", "query", "key", "value")[i])


@MEMORY
@pytest.mark.parametrize("name", ["sd1", "tiny"])
def test_nothing_synchronises(name: str, memory: Any) -> None:
    vae = on_gpu(name)
    decoder = FrozenDecoder(vae, ("up0", "up1"), memory=memory)
    v, v_prime = latents_for(vae)

    def passes() -> None:
        for nonfinite in ("propagate", "zero"):
            decoder.feature_matching(v, v_prime, nonfinite=nonfinite, return_statistics=True)
        leaf = v.clone().requires_grad_()
        sum(x.sum() for x in decoder.features(leaf)).backward()

    passes()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        passes()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_weights_follow_the_vae_to_the_gpu() -> None:
    vae = architecture("sd1")
    decoder = FrozenDecoder(vae, ("up0", "up1"))
    v, v_prime = latents_for(vae)
    before = decoder.feature_matching(v.cpu(), v_prime.cpu())
    vae.cuda()
    fresh = FrozenDecoder(vae, ("up0", "up1")).feature_matching(v, v_prime)
    after = decoder.feature_matching(v, v_prime)
    for x, y in zip(after, fresh, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-3 * float(y.abs().max()))
    torch.testing.assert_close(after[0].cpu(), before[0], rtol=0.01, atol=0)
    vae.cpu()
    again = decoder.feature_matching(v.cpu(), v_prime.cpu())
    assert all(bitwise_equal(x, y) for x, y in zip(again, before, strict=True))


@MEMORY
def test_autocast_changes_neither_pass(memory: Any) -> None:
    vae = on_gpu("sd1")
    decoder = FrozenDecoder(vae, memory=memory)
    v, _ = latents_for(vae)
    results = []
    for autocast in (False, True):
        leaf = v.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = sum(x.float().square().mean() for x in decoder.features(leaf))
            results.append(torch.autograd.grad(loss, leaf)[0])
    # Sums in another order from run to run, at most; bfloat16 would be a hundred times as far.
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5 * float(results[0].abs().max()))
