"""`prior.compile`: the same gradients in both modes, any batch size, and nothing of the host's changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import _dynamo
from torch._dynamo.testing import CompileCounterWithBackend

from ldp_fast.errors import UsageError
from ldp_fast.guidance import LatentDiffusionPrior, PriorSettings, TextEmbeddings

from ..support.models import TEXT_WIDTH, tiny_vae
from .naive import naive_gradient
from .steps import fixed, make, make_scheduler, unet_to_trace


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No compiled code of another test."""
    _dynamo.reset()
    yield
    _dynamo.reset()


def check(prior: LatentDiffusionPrior, v: torch.Tensor, text: TextEmbeddings, compiled: LatentDiffusionPrior) -> None:
    """Gradient mode, loss mode, the captured step's fallback, eager and naive give one gradient."""
    call = {"timesteps": torch.linspace(40, 900, len(v)).long(), "noise": torch.randn(v.shape)}
    eager, _ = prior.gradient(v, text, **call)
    both = text.expand(len(v))
    naive, _ = naive_gradient(
        prior.unet, prior.vae, prior.scheduler, prior.settings, prior.guidance_scale, "epsilon",
        v, both.uncond, both.text, call["timesteps"], call["noise"],
    )  # fmt: skip
    leaf = v.clone().requires_grad_()
    compiled(leaf, text, **call).loss.backward()
    found = (compiled.gradient(v, text, **call)[0], leaf.grad, compiled.capture(v, text)(v, **call)[0])
    for actual in found:
        assert actual is not None
        # Rounding may turn signs of nearly equal features: relative L2, not element by element.
        assert (actual - eager).norm() < 2e-3 * eager.norm()
        assert (actual - naive).norm() < 2e-3 * naive.norm()


def check_batches(unet: Any, batches: tuple[int, ...] = (2, 3, 5, 1), **options: Any) -> None:
    prior, latents, text = make()
    prior.unet = unet
    compiled = prior.compile(**options)
    for batch in batches:
        check(prior, torch.randn(batch, *latents.shape[1:]), text, compiled)
    graphs = _dynamo.utils.counters["stats"]["unique_graphs"]
    for batch in (4, 6, 7):
        compiled.gradient(torch.randn(batch, *latents.shape[1:]), text)
    assert _dynamo.utils.counters["stats"]["unique_graphs"] == graphs, "compiled again for another batch size"


@pytest.mark.slow
def test_any_batch_size_without_code_generation() -> None:
    _dynamo.utils.counters.clear()
    check_batches(unet_to_trace(), backend="aot_eager")


class Layer(torch.nn.Module):
    """A network of one normalised layer, called as diffusers' UNets are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.text = torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Linear(TEXT_WIDTH, 8)
        self.norm, self.out = torch.nn.GroupNorm(4, 8), torch.nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> UNet2DConditionOutput:
        hidden = (
            self.conv(x) + self.text(encoder_hidden_states).mean(1)[:, :, None, None] + t[:, None, None, None] / 1e3
        )
        return UNet2DConditionOutput(sample=self.out(torch.nn.functional.silu(self.norm(hidden))))


@pytest.mark.slow
def test_any_batch_size() -> None:
    """With code generated, which takes a second for each kernel: of one layer, for two sizes."""
    _dynamo.utils.counters.clear()
    check_batches(Layer().requires_grad_(False), batches=(2, 3))


def test_everything_else_is_shared_and_nothing_of_the_host_is_changed() -> None:
    prior, latents, text = make()
    _ = prior.decoder
    unet, names, attributes = prior.unet, list(prior.unet.state_dict()), dict(vars(prior.unet))
    compiled = prior.compile(backend="eager")
    compiled.gradient(latents, text, **fixed(latents))
    assert prior.unet is unet and vars(unet) == attributes and list(unet.state_dict()) == names
    assert unet._compiled_call_impl is None
    assert compiled.unet is not unet and compiled.unet._orig_mod is unet
    for name in ("vae", "_decoder", "schedule", "settings", "text_encoder"):
        assert getattr(compiled, name) is getattr(prior, name)
    assert compiled.latent_shape == prior.latent_shape and compiled.dtype == prior.dtype
    assert compiled.with_settings(lambda_fm=0.0).unet is compiled.unet
    assert compiled.compile().unet._orig_mod is unet  # once, not twice


def test_compiled_networks_are_not_measured() -> None:
    prior, latents, text = make()
    with pytest.raises(UsageError, match="optimise first, then compile"):
        prior.compile().optimise(latents, text)


class Net(torch.nn.Module):
    """A network that traces in no time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.text = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.Linear(TEXT_WIDTH, 4)

    def forward(self, x: torch.Tensor, t: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.text(encoder_hidden_states).mean(1)[:, :, None, None] + t[:, None, None, None] / 1000


def step_of(mode: str) -> Callable[[LatentDiffusionPrior, TextEmbeddings, float], torch.Tensor]:
    """A training step as a user compiles it: the prior in it, and a number of his own."""
    leaf = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def step(prior: LatentDiffusionPrior, text: TextEmbeddings, progress: float) -> torch.Tensor:
        if mode == "gradient":
            return prior.gradient(leaf, text, progress=progress)[0] * 2
        return prior(leaf, text, progress=progress).loss * leaf.square().mean()

    return step


@pytest.mark.parametrize("mode, anneal_to", [("gradient", 0.5), ("loss", None)])
def test_a_compiled_step_around_the_prior(mode: str, anneal_to: float | None, monkeypatch) -> None:
    """Progress, guidance and λ's change at every step: the same results, no more graphs after three steps."""
    ignored: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    settings = PriorSettings(lambda_fm=0.3, lambda_kl=0.1, guidance_scale=3.0, anneal_to=anneal_to)
    prior = LatentDiffusionPrior(Net(), tiny_vae(), make_scheduler("epsilon"), settings=settings)
    text = TextEmbeddings(torch.randn(1, 5, TEXT_WIDTH), torch.randn(1, 5, TEXT_WIDTH))
    counter, step = CompileCounterWithBackend("eager"), step_of(mode)
    compiled, counts = torch.compile(step, backend=counter), []
    for index in range(7):
        changed = prior.with_settings(
            guidance_scale=3.0 + index, lambda_kl=0.1 + 0.1 * index, lambda_lsd=0.5 + index, lambda_fm=0.3 + index
        )
        results = []
        for function in (step, compiled):
            torch.manual_seed(index)
            results.append(function(changed, text, 0.05 + 0.13 * index))
        assert torch.equal(*results)
        counts.append(counter.frame_count)
    assert counts[2] == counts[-1] and not ignored


@pytest.mark.gpu
@pytest.mark.slow
def test_gpu_a_compiled_network_in_a_captured_step() -> None:
    prior, latents, text = make("cuda")
    step = prior.compile().capture(latents, text)
    assert step.captured, step.reason
    for seed in range(2):
        expected, _ = prior.gradient(latents, text, **fixed(latents, seed))
        actual, _ = step(latents, **fixed(latents, seed))
        assert (actual - expected).norm() < 2e-3 * expected.norm()
