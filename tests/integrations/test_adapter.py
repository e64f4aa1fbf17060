"""Every adapter has the same keywords, both modes, every kind of network, and says what its last step saw."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast import UsageError
from ldp_fast.integrations import sjc, text2live

from .adapters import ADAPTERS, LAMBDAS, Adapter, Host, embeddings, images, latents, sjc_losses
from .network import PredictsV
from .oracle import assert_same
from .test_text2live import LossG, guidance_of, made
from .test_text2live import image as an_image

every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
every_wrap = pytest.mark.parametrize("wrap", [*(a.wrap for a in ADAPTERS), sjc.wrap], ids=[*map(str, ADAPTERS), "sjc"])
KEYWORDS = {"mode", "prediction", "lambda_fm", "lambda_kl", "lambda_lsd", "decoder_dtype"}
SJC = (latents().detach(), latents(2).detach() * 3, latents(2).detach() * 2, torch.full((2, 1, 1, 1), 1.7))


def returned(host: Any, name: str, leaf: Tensor) -> Any:
    """What a step gives its host in a loss's place, for the same t and ε every time."""
    torch.manual_seed(5)
    text = embeddings(2)
    if name == "stylegan_fusion":
        return host.train_step(leaf * 1.0)[0]
    if name == "prolificdreamer":
        return host.train_step(text, leaf * 1.0, 7.5)[0]
    if name == "dreamgaussian":
        return host.train_step(leaf)
    return (host.sds_loss if name == "nerfstudio" else host.train_step)(text, leaf * 1.0)


def a_leaf(name: str) -> Tensor:
    return images(2) if name in ("stable_dreamfusion", "dreamgaussian", "nerfstudio") else latents(2)


@every_wrap
def test_the_keywords_are_the_same(wrap: Any) -> None:
    parameters = inspect.signature(wrap).parameters
    assert {name for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY} == KEYWORDS
    unnamed = [name for name, p in parameters.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert unnamed == ["host"]


@every_wrap
def test_what_comes_without_its_keyword_is_said(wrap: Any) -> None:
    with pytest.raises(TypeError, match=r": expected the host, and everything else by its keyword \(mode=.*got 'loss'"):
        wrap(Host(), "loss")


@every_wrap
def test_an_unknown_mode_or_prediction(wrap: Any) -> None:
    for name in ("mode", "prediction"):
        with pytest.raises(UsageError, match=f"{name}: expected .* or .*, got 'both'"):
            wrap(Host(), lambda_fm=0.0, **{name: "both"})


@every_adapter
def test_both_modes_have_the_same_gradient(adapter: Adapter) -> None:
    found = {}
    for mode in ("gradient", "loss"):
        host, leaf = adapter.wrap(Host(), **LAMBDAS, mode=mode), a_leaf(adapter.name)
        result = returned(host, adapter.name, leaf)
        assert (host.ldp.output is None) == (mode == "gradient")
        if mode == "gradient" and adapter.name == "stylegan_fusion":
            found[mode] = result
        elif mode == "gradient" and adapter.name == "latent_nerf":
            assert result == 0
            found[mode] = leaf.grad
        else:
            # A gradient comes as it is, a loss is multiplied by what comes in.
            factor = 8 if mode == "gradient" else 1
            (found[mode],) = torch.autograd.grad(result.float() * factor, leaf)
            assert (result == 0) == (mode == "gradient")
    torch.testing.assert_close(found["gradient"], found["loss"], rtol=1e-4, atol=1e-5)


@every_adapter
@pytest.mark.parametrize("mode", [None, "gradient", "loss"])
def test_statistics_are_of_the_last_step(adapter: Adapter, mode: Any) -> None:
    host = adapter.wrap(Host(), **LAMBDAS, mode=mode)
    assert host.ldp.statistics is None
    returned(host, adapter.name, a_leaf(adapter.name))
    seen = host.ldp.statistics.read()
    assert seen["norm_fm"] > 0 and seen["norm_kl"] > 0 and seen["norm_lsd"] > 0 and 20 <= seen["t"] <= 980
    if host.ldp.output is not None:
        assert host.ldp.output.statistics is host.ldp.statistics


@every_adapter
def test_a_network_of_v_gives_what_one_of_noise_gives(adapter: Adapter) -> None:
    host = Host()
    host.unet = PredictsV()
    found = adapter.gradient(adapter.wrap(host, **LAMBDAS, prediction="v_prediction"), batch=2)
    expected = adapter.gradient(adapter.host(), batch=2)
    # Signs of nearly equal features may turn: what the two networks return differs by float32's rounding.
    assert_same(found, expected, 2e-3)


@every_adapter
def test_the_decoders_precision(adapter: Adapter) -> None:
    host = adapter.wrap(Host(), **LAMBDAS, decoder_dtype=torch.float64)
    assert host.ldp.losses.decoder.dtype == torch.float64


def test_sjc_has_both_modes_and_statistics() -> None:
    _, model = sjc_losses()
    assert sjc.wrap(model, **LAMBDAS) is model and model.ldp.statistics is None
    expected, seen = model.ldp.gradient(*SJC)
    assert model.ldp.statistics is seen and seen.read()["norm_fm"] > 0
    for mode in ("gradient", "loss"):
        losses = sjc.wrap(model, **LAMBDAS, mode=mode).ldp
        leaf = SJC[0].clone().requires_grad_()
        result = losses.step(leaf * 1.0, *SJC[1:])
        if mode == "loss":
            result.backward()
        assert (result == 0) == (mode == "gradient")
        torch.testing.assert_close(leaf.grad, expected)
        assert losses.statistics.read() == seen.read()


def test_text2lives_statistics_are_of_all_sizes() -> None:
    model, criterion = nn.Identity(), LossG()
    guidance = guidance_of()
    text2live.wrap(model, criterion, guidance)
    assert criterion.ldp is guidance and "theta" not in dict(criterion.named_parameters())
    assert criterion.ldp.statistics.read() == {}
    criterion(made([an_image()], [an_image(64, 128), an_image(64, 128, 1)]), {})
    each, seen = [s.read() for s in criterion.ldp.statistics], criterion.ldp.statistics.read()
    assert len(each) == 2 and sorted(seen) == sorted(each[0])
    images_of = [len(s.timesteps) for s in criterion.ldp.statistics]
    assert sorted(images_of) == [1, 2]
    for name in ("lsd", "t", "norm_fm"):
        wanted = sum(n * numbers[name] for n, numbers in zip(images_of, each, strict=True)) / 3
        assert seen[name] == pytest.approx(wanted)
