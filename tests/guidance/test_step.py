"""The whole step: no host synchronisation, right under a GradScaler and checkpointing, and the same on a GPU."""

from __future__ import annotations

import pytest
import torch

from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..models import TEXT_WIDTH, scheduler, tiny_unet, tiny_vae
from ..ops.common import NoSync


def make(device: str = "cpu", **changes: object) -> tuple[LatentDiffusionPrior, torch.Tensor, TextEmbeddings]:
    settings = PriorSettings(0.3, 0.1, 1.0, guidance_scale=3.0, **changes)
    prior = LatentDiffusionPrior(tiny_unet().to(device), tiny_vae().to(device), scheduler(), settings=settings)
    generator = torch.Generator().manual_seed(0)
    latents, text, uncond = (
        torch.randn(shape, generator=generator).to(device)
        for shape in ((2, 4, 8, 8), (1, 5, TEXT_WIDTH), (1, 5, TEXT_WIDTH))
    )
    return prior, latents, TextEmbeddings(text, uncond)


@pytest.mark.parametrize("mode", ["gradient", "loss"])
def test_nothing_synchronises(mode: str) -> None:
    prior, latents, text = make()
    views = TextEmbeddings(text.text.repeat(3, 1, 1), text.uncond.repeat(3, 1, 1))
    leaf = latents.clone().requires_grad_()
    with NoSync():
        picked = views.select(torch.tensor([2, 0]))
        if mode == "gradient":
            prior.gradient(latents, picked)
        else:
            prior(leaf, picked).loss.backward()


def test_upstream_scale_reaches_the_gradient() -> None:
    """What a GradScaler does: the loss times 65536, the gradient divided by it afterwards."""
    prior, latents, text = make()
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    expected, _ = prior.gradient(latents, text, **call)
    leaf = latents.clone().requires_grad_()
    (prior(leaf, text, **call).loss * 65536.0).backward()
    torch.testing.assert_close(leaf.grad / 65536.0, expected, rtol=1e-4, atol=1e-5)


def test_terms_can_be_weighted_by_the_host() -> None:
    prior, latents, text = make()
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    leaf = latents.clone().requires_grad_()
    out = prior(leaf, text, **call)
    (0.7 * out.lsd + 0.2 * out.fm + 0.4 * out.kl).backward()
    expected, _ = prior.with_settings(lambda_lsd=0.7, lambda_fm=0.2, lambda_kl=0.4).gradient(latents, text, **call)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-5)


def test_inside_a_renderer_with_checkpointing() -> None:
    prior, latents, text = make()
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    renderer = torch.nn.Conv2d(4, 4, 1)
    gradients = []
    for checkpointed in (False, True):
        renderer.zero_grad()

        def render(x: torch.Tensor) -> torch.Tensor:
            return prior(renderer(x), text, **call).loss

        if checkpointed:
            torch.utils.checkpoint.checkpoint(render, latents, use_reentrant=False).backward()
        else:
            render(latents).backward()
        gradients.append(renderer.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_inference_mode_is_allowed() -> None:
    prior, latents, text = make()
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    expected, _ = prior.gradient(latents, text, **call)
    with torch.inference_mode():
        actual, _ = prior.gradient(latents, text, **call)
    torch.testing.assert_close(actual, expected)


def test_a_weight_of_zero_switches_off_a_term_that_is_not_finite() -> None:
    prior, latents, text = make()
    prior = prior.with_settings(lambda_kl=0.0, lambda_fm=0.0)
    latents[0] = 0.5
    latents[0, 0, 0, 0] = 3e38  # its variance is infinite, the residual is not the latents' business here
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    leaf = latents.clone().requires_grad_()
    out = prior(leaf, text, **call)
    assert not torch.isfinite(out.kl)
    out.loss.backward()
    expected, _ = prior.gradient(latents, text, **call)
    torch.testing.assert_close(leaf.grad, expected, equal_nan=True)


@pytest.mark.parametrize("policy", ["propagate", "zero"])
def test_balanced_with_a_feature_matching_gradient_of_zero(policy: str) -> None:
    """Where v′ = v there is nothing to match: the ratio is 0, not infinite."""
    prior, latents, text = make(scale="balanced", nonfinite=policy)
    step = prior._evaluate(latents, text, 300, torch.ones_like(latents), None, 0.0)
    import dataclasses

    zero = dataclasses.replace(step, grad_v=torch.zeros_like(latents), grad_v_prime=torch.zeros_like(latents))
    gradient, _ = prior._combine(zero, zero.balance(prior.settings))
    assert torch.isfinite(gradient).all()


@pytest.mark.gpu
def test_gpu_step_equals_cpu_and_never_synchronises() -> None:
    prior, latents, text = make()
    call = {"timesteps": torch.tensor([100, 600]), "noise": torch.ones_like(latents)}
    expected, _ = prior.gradient(latents, text, **call)
    there, v, embedded = make("cuda")
    call = {name: x.cuda() for name, x in call.items()}
    there.gradient(v, embedded, **call)
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual, _ = there.gradient(v, embedded, **call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # Signs of nearly equal features may differ between devices: relative L2, not element by element.
    assert (actual.cpu() - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.gpu
def test_gpu_step_is_captured_in_a_graph() -> None:
    prior, latents, text = make("cuda")
    call = {"timesteps": torch.tensor([100, 600], device="cuda"), "noise": torch.ones_like(latents)}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            prior.gradient(latents, text, **call)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured, _ = prior.gradient(latents, text, **call)
    latents.copy_(torch.randn_like(latents))
    graph.replay()
    expected, _ = prior.gradient(latents, text, **call)
    assert (captured - expected).norm() < 1e-3 * expected.norm()
