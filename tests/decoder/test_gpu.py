"""The frozen decoder on CUDA: equality with the VAE's own code, graphs, no synchronisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.decoder import FrozenDecoder

from ..ops.common import bitwise_equal
from .common import all_levels, architecture, check_features, latent_channels, scaling

pytestmark = pytest.mark.gpu

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


@MEMORY
@pytest.mark.parametrize("name", ["sd1", "compvis 2"])
def test_replays_from_a_graph(name: str, memory: Any) -> None:
    vae = on_gpu(name, torch.bfloat16)
    decoder = FrozenDecoder(vae, ("up0", "up1", "up2"), memory=memory, **scaling(vae))
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
        eager = decoder.feature_matching(v, v_prime)
        for x, y in zip(captured, eager, strict=True):
            # cuDNN may choose other algorithms while capturing.
            torch.testing.assert_close(x, y, rtol=0.02, atol=0.02 * float(y.abs().max()))


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
