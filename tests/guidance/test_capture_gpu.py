"""The captured step on a CUDA device: to the bit, from other streams, several at once, on the second device, and at
Stable Diffusion 1.5's real widths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from ldp_fast import losses
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..decoder.common import kl
from ..ops.common import bitwise_equal
from ..support import samples
from ..support.gpu import needs_memory, second_device, size
from ..support.models import scheduler
from .steps import assert_near_graph, fixed, make

# Where the algorithms may be others, a flipped sign of feature matching moves the gradient by more than their rounding.
pytestmark = [pytest.mark.gpu, pytest.mark.real_size, pytest.mark.usefixtures("deterministic")]


def captured(prior: LatentDiffusionPrior, latents: torch.Tensor, text: TextEmbeddings) -> Any:
    step = prior.capture(latents, text)
    assert step.captured, step.reason
    return step


@pytest.mark.parametrize(("memory", "noises"), [("save", 1), ("recompute", 1), ("save", 3)])
def test_a_replay_has_the_bits_of_the_eager_step(memory: str, noises: int) -> None:
    prior, latents, text = make("cuda", memory=memory, noises=noises)
    step = captured(prior, latents, text)
    for seed in range(3):
        v, call = latents + seed, fixed(latents, seed, noises)
        (g, statistics), (expected, other) = step(v, **call), prior.gradient(v, text, **call)
        assert bitwise_equal(g, expected)
        for name, term in statistics.terms.items():
            assert bitwise_equal(term, other.terms[name]), name


def test_replays_from_another_stream() -> None:
    prior, latents, text = make("cuda")
    step, calls = captured(prior, latents, text), [fixed(latents, seed) for seed in range(3)]
    expected = [prior.gradient(latents, text, **call) for call in calls]
    for call, wanted in zip(calls, expected, strict=True):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(1_000_000)
            found = step(latents, **call, clone=True)
        torch.cuda.current_stream().wait_stream(stream)
        assert_near_graph(found, wanted)


def test_two_graphs_are_alive() -> None:
    """Neither writes into the memory of the other, nor is hurt when the other goes."""
    one, latents, text = make("cuda")
    other = one.with_settings(lambda_fm=0.0, guidance_scale=7.0)
    steps = [captured(prior, latents, text) for prior in (one, other)]
    for seed in range(2):
        call = fixed(latents, seed)
        first, second = (step(latents, **call) for step in steps)
        assert_near_graph(first, one.gradient(latents, text, **call))
        assert_near_graph(second, other.gradient(latents, text, **call))
    del steps[0], first
    torch.cuda.empty_cache()
    assert_near_graph(steps[0](latents, **call), other.gradient(latents, text, **call))


def test_memory_is_used_again_across_streams() -> None:
    """What one stream is not done with is not given to another; what it is done with may be."""
    inputs = samples.perturb.inputs(shape=size((8, 4, 256, 256), (2, 4, 8, 8)), device="cuda")
    wanted = losses.perturb(**inputs).clone()
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()
    for _ in range(20):
        side.wait_stream(here)
        with torch.cuda.stream(side):
            torch.cuda._sleep(100_000)
            late = losses.perturb(**inputs)
        late.record_stream(here)
        here.wait_stream(side)
        copy = late.clone()
        del late
        with torch.cuda.stream(side):  # may take the memory of `late`
            losses.perturb(**inputs | {"noise": inputs["noise"] + 1})
        assert torch.equal(copy, wanted)


@second_device
def test_triton_launches_on_the_tensors_device() -> None:
    inputs = samples.perturb.inputs(shape=(2, 4, 16, 16), device="cuda:1")
    assert torch.cuda.current_device() == 0
    z = losses.perturb(**inputs)
    at_home = losses.perturb(**{k: x.to("cuda:0") if isinstance(x, torch.Tensor) else x for k, x in inputs.items()})
    assert z.device == torch.device("cuda:1") and torch.equal(z.cpu(), at_home.cpu())
    assert torch.cuda.current_device() == 0


@second_device
def test_a_capture_on_the_second_device() -> None:
    prior, latents, text = make("cuda:1")
    step = captured(prior, latents, text)
    for seed in range(2):
        call = fixed(latents, seed)
        found = step(latents, **call)
        assert found[0].device == torch.device("cuda:1")
        assert_near_graph(found, prior.gradient(latents, text, **call))
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_at_the_widths_of_stable_diffusion(dtype: torch.dtype) -> None:
    """SD 1.5's UNet and decoder with random weights, on 64×64 latents."""
    needs_memory(24)
    side, text_width = size((64, 768), (8, 16))
    with torch.device("cuda"):  # where the weights are drawn: a CPU takes half a minute
        unet = UNet2DConditionModel(
            sample_size=side,
            block_out_channels=size((320, 640, 1280, 1280), (32, 32, 64, 64)),
            cross_attention_dim=text_width,
            attention_head_dim=8,
        ).to(dtype)
        vae = kl(size((128, 256, 512, 512), (32, 32, 64, 64)), groups=32, latent_channels=4, scaling_factor=0.18215)
    unet.eval().requires_grad_(False)
    settings = PriorSettings(lambda_fm=0.1, lambda_kl=0.1, guidance_scale=7.5)
    prior = LatentDiffusionPrior(unet, vae.to(dtype), scheduler(), settings=settings)
    latents = torch.randn(1, 4, side, side, device="cuda")
    text = TextEmbeddings(*torch.randn(2, 1, 77, text_width, device="cuda").to(dtype))
    step = captured(prior, latents, text)
    for seed in range(2):
        call = {"timesteps": [100 + 300 * seed], "noise": torch.randn_like(latents)}
        found, wanted = step(latents, **call), prior.gradient(latents, text, **call)
        assert wanted[0].isfinite().all() and wanted[0].any()
        assert_near_graph(found, wanted)
