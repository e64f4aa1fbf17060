"""The whole step: no host synchronisation, right under a GradScaler and checkpointing, and the same on a GPU."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldp_fast.guidance import LatentDiffusionPrior, TextEmbeddings, terms

from ..ops.common import NoSync
from ..support.gpu import size
from .steps import fixed, make

# Every branch that a step can take on its way, if not every combination of them.
VARIANTS: list[dict[str, Any]] = [
    *({"scale": scale} for scale in ("latent", "literal", "balanced")),
    *(
        {"prediction": prediction, "guidance": guidance}
        for prediction in ("epsilon", "v_prediction", "sample", "flow")
        for guidance in ("from_uncond", "from_text")
    ),
    *({"memory": memory, "scale": "balanced"} for memory in ("save", "recompute")),
    {"guidance_scale": False, "order": "text_first"},
    {"nonfinite": "zero", "scale": "balanced", "batch_reduction": "sum"},
    {"weighting": "latent_nerf", "anneal_to": 0.5},
    {"weighting": "dreamfusion", "lambda_fm": 0.0},
    {"noises": 3, "prediction": "v_prediction"},
    {"noises": 2, "guidance_scale": False},
]


def one_step(
    prior: LatentDiffusionPrior, latents: torch.Tensor, text: TextEmbeddings, mode: str, **call: Any
) -> torch.Tensor:
    """A step as a host runs it, from the choice of views to the gradient on its latents."""
    views = TextEmbeddings(text.text.repeat(3, 1, 1), text.uncond.repeat(3, 1, 1))
    picked = views.select(torch.arange(2, device=latents.device))
    leaf = latents.clone().requires_grad_()
    if mode == "gradient":
        gradient, _ = prior.gradient(latents, picked, **call)
        leaf.backward(gradient=gradient)
    else:
        prior(leaf, picked, **call).loss.backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("mode", ["gradient", "loss"])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_nothing_synchronises(mode: str, variant: dict[str, Any]) -> None:
    """With t and ε drawn by a generator of the device, and given; once in every form."""
    prior, latents, text = make(**variant)
    calls: list[dict[str, Any]] = [{"generator": torch.Generator().manual_seed(0), "progress": 0.3}]
    calls.append(fixed(latents, noises=prior.settings.noises))
    if variant == VARIANTS[0]:
        calls += [{}, {"timesteps": 300}, {"timesteps": torch.tensor(300)}]
    with NoSync(), NothingFromNumbers():
        for call in calls:
            one_step(prior, latents, text, mode, **call)


class OneDevice(TorchDispatchMode):
    """Raises where a tensor is on another device than the networks, which are on `meta`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves((args, kwargs, result)):
            assert not isinstance(x, torch.Tensor) or x.device.type == "meta", f"{func} on {x.device}"
        return result


class NothingFromNumbers(TorchFunctionMode):
    """Raises where a tensor is made of Python numbers: on a GPU that is a copy, which the host waits for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy), f"{func.__name__}{args}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["gradient", "loss"])
@pytest.mark.parametrize("variant", [v for v in VARIANTS if "memory" not in v], ids=str)
def test_nothing_is_copied_from_the_host(mode: str, variant: dict[str, Any]) -> None:
    """On the meta device values cannot be read, and what comes from the CPU is another device's."""
    prior, latents, text = on_meta(**variant)
    for call in ({}, fixed(latents), {"timesteps": 300})[: 3 if variant == VARIANTS[0] else 1]:
        with OneDevice(), NothingFromNumbers():
            assert one_step(prior, latents, text, mode, **call).shape == latents.shape


@pytest.mark.parametrize(
    "weighting",
    [
        lambda t: torch.tensor([0.5, 0.7]).to(t.device),
        lambda t: torch.tensor([0.5, 0.7], device=t.device),
        lambda t: t / float(t.max()),
    ],
    ids=["moves", "makes", "reads"],
)
def test_the_check_sees_what_touches_the_host(weighting: Any) -> None:
    prior, latents, text = on_meta(weighting=weighting)
    with pytest.raises((AssertionError, RuntimeError)), OneDevice(), NothingFromNumbers():
        one_step(prior, latents, text, "gradient")


def on_meta(**variant: Any) -> tuple[LatentDiffusionPrior, torch.Tensor, TextEmbeddings]:
    """The step before the decoder, on a device without values."""
    prior, latents, text = make(**{**variant, "lambda_fm": 0.0})
    prior.unet.to("meta")
    prior.schedule.to(torch.device("meta"))  # once, not in every step
    return prior, latents.to("meta"), text.to("meta")


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
    matching = terms.match(prior.settings, lambda: prior.decoder, step)
    nothing = matching._replace(grad_v=torch.zeros_like(latents), grad_v_prime=torch.zeros_like(latents))
    gradient, _ = terms.gradient(prior.settings, step, nothing)
    assert torch.isfinite(gradient).all()


@pytest.mark.gpu
def test_gpu_step_equals_cpu() -> None:
    prior, latents, text = make()
    expected, _ = prior.gradient(latents, text, **fixed(latents))
    there, v, embedded = make("cuda")
    actual, _ = there.gradient(v, embedded, **fixed(v))
    # Signs of nearly equal features may differ between devices: relative L2, not element by element.
    assert (actual.cpu() - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_gpu_never_synchronises(variant: dict[str, Any]) -> None:
    prior, latents, text = make("cuda", **variant)
    generator = torch.Generator("cuda").manual_seed(0)
    given = fixed(latents, noises=prior.settings.noises)
    step = prior.with_settings(nonfinite="propagate").capture(latents, text)
    calls: list[dict[str, Any]] = [{"generator": generator, "progress": 0.3}, {}, given, {"timesteps": 300}]
    # On the stand-in, where a step takes a second, each variant has one of them.
    calls = size(calls, [calls[VARIANTS.index(variant) % len(calls)]])
    for debug in ("default", "error"):  # the first time kernels are compiled and tables moved
        torch.cuda.set_sync_debug_mode(debug)
        try:
            for mode, call in itertools.product(("gradient", "loss"), calls):
                one_step(prior, latents, text, mode, **call)
            step._graph = None  # what the fallback does on a GPU
            step(latents, text, progress=0.3)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_gpu_step_is_captured_in_a_graph_of_the_host() -> None:
    prior, latents, text = make("cuda")
    call = fixed(latents)
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
