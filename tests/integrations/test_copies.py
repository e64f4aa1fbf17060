"""A copied, pickled or averaged host has a step of its own, that computes with its own modules."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.integrations import text2live

from .adapters import ADAPTERS, LAMBDAS, Adapter, Host, another_vae, embeddings, latents, sjc_losses
from .test_live import differs
from .test_text2live import LossG, guidance_of, made
from .test_text2live import image as an_image

every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=str)


def saved(host: Any) -> Any:
    file = io.BytesIO()
    torch.save(host, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda host: pickle.loads(pickle.dumps(host)),
    "torch.save": saved,
}
every_way = pytest.mark.parametrize("way", COPIES)


def changed(host: Any, adapter: Adapter) -> Any:
    """The host's VAE and network in place."""
    getattr(host, adapter.vae).load_state_dict(another_vae().state_dict())
    with torch.no_grad():
        host.unet.conv_out.weight.mul_(1.5)
    return host


@every_adapter
@every_way
def test_a_copy_computes_with_its_own_modules(adapter: Adapter, way: str) -> None:
    host = adapter.host()
    before = adapter.gradient(host)
    other = COPIES[way](host)
    assert torch.equal(adapter.gradient(other), before)
    assert other.ldp is not host.ldp and other.ldp.host is other
    changed(other, adapter)
    expected = adapter.gradient(adapter.wrap(changed(Host(), adapter), **LAMBDAS))
    assert differs(before, expected)
    torch.testing.assert_close(adapter.gradient(other), expected)
    # Whichever goes first: the other one lives on.
    assert torch.equal(adapter.gradient(host), before)
    changed(host, adapter)
    del other
    torch.testing.assert_close(adapter.gradient(host), expected)


@every_way
def test_a_copy_follows_its_own_vae_and_scheduler(way: str) -> None:
    adapter = ADAPTERS[0]
    host = adapter.host()
    before = adapter.gradient(host)
    other = COPIES[way](host)
    other.vae = another_vae()
    assert differs(before, adapter.gradient(other))
    assert torch.equal(before, adapter.gradient(host))


def test_an_averaged_host_can_be_run() -> None:
    """torch's AveragedModel copies the host, averages its weights and calls it."""
    host = Host()
    ADAPTERS[0].wrap(host, mode="loss", **LAMBDAS)

    def gradient(module: Any) -> Tensor:
        leaf = latents()
        torch.manual_seed(5)
        return torch.autograd.grad(module(embeddings(2), leaf), leaf)[0]

    before = gradient(host)
    averaged = torch.optim.swa_utils.AveragedModel(host)
    averaged.update_parameters(host)
    assert torch.equal(gradient(averaged), before)
    changed(host, ADAPTERS[0])
    averaged.update_parameters(host)  # the mean of both
    assert differs(before, gradient(averaged)) and differs(gradient(host), gradient(averaged))
    del averaged
    assert differs(before, gradient(host))


def test_what_is_kept_of_a_step_keeps_no_graph() -> None:
    """Which would stay in memory until the next, and cannot be copied."""
    for adapter in ADAPTERS:
        host = adapter.host()
        adapter.gradient(host)
        if host.ldp.mode == "loss":
            output = host.ldp.output
            assert not any(x.requires_grad for x in (output.loss, output.lsd, output.fm, output.kl)) and output.fm > 0


@every_way
def test_sjcs_losses(way: str) -> None:
    losses, model = sjc_losses()
    arguments = (latents().detach(), latents(2).detach() * 3, latents(2).detach() * 2, torch.full((2, 1, 1, 1), 1.7))
    before = losses.gradient(*arguments)[0]
    other_losses, other = COPIES[way]((losses, model))
    other.model.scale_factor = 0.13025
    assert differs(before, other_losses.gradient(*arguments)[0])
    assert torch.equal(before, losses.gradient(*arguments)[0])


@every_way
def test_text2lives_criterion(way: str) -> None:
    model, criterion = nn.Identity(), LossG()
    text2live.wrap(model, criterion, guidance_of())
    outputs = made([an_image()])
    torch.manual_seed(1)
    before = criterion(outputs, {})
    other_model, other = COPIES[way]((model, criterion))
    with torch.no_grad():
        other_model.theta_latent.fill_(0.5)  # of the copy's guidance, as of the original's
    torch.manual_seed(1)
    after = other(outputs, {})
    assert after["loss_kl"] != before["loss_kl"] and after["loss_sparsity"] == before["loss_sparsity"]
    torch.manual_seed(1)
    assert torch.equal(criterion(outputs, {})["loss"], before["loss"])
