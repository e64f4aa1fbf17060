"""What the host adapters share: both modes, the scale, clipping, autocast and GradScaler, no waiting."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldp_fast import FrozenDecoder, LatentDiffusionPrior, UsageError
from ldp_fast.guidance import PriorSettings, Schedule
from ldp_fast.integrations._core import HostLosses, predict_residual
from ldp_fast.integrations._host import attach, require

from ..ops.common import NoSync
from ..support.models import scheduler, tiny_unet, tiny_vae

ALL = {"lambda_fm": 0.01, "lambda_kl": 0.1, "lambda_lsd": 1.0}
TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))


def latents(batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(unet: torch.nn.Module, t: Tensor, text: Tensor = TEXT) -> Callable[[Tensor], Tensor]:
    return lambda z: unet(z, t.repeat(2), encoder_hidden_states=text.repeat_interleave(len(z) // 2, 0)).sample


def a_step(batch: int = 2, **settings) -> tuple[HostLosses, Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Losses, latents, what they are called with, and t."""
    unet, vae = tiny_unet(), tiny_vae()
    v, noise, t = latents(batch), latents(batch, 1), torch.tensor([300, 700])[:batch]
    schedule = Schedule.from_scheduler(scheduler())
    alpha, sigma = schedule.gather(t)
    r = predict_residual(v, noise, alpha, sigma, network(unet, t), guidance_scale=100.0)
    return HostLosses(vae, **settings), v, (r, alpha, schedule.weight(t, "dreamfusion")), t


def gradient_of(loss: Tensor, v: Tensor, factor: float = 1.0) -> Tensor:
    (g,) = torch.autograd.grad(loss * factor, v)
    return g


@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_host_gets_what_the_prior_gives(batch_reduction: str, prediction: str) -> None:
    """The same networks, t and ε through `LatentDiffusionPrior` and through a host's closure."""
    unet, vae, ddim = tiny_unet(), tiny_vae(), scheduler(prediction)
    settings = PriorSettings(
        **ALL, guidance_scale=100.0, weighting="dreamfusion", batch_reduction=batch_reduction, prediction=prediction
    )
    prior = LatentDiffusionPrior(unet, vae, ddim, settings=settings)
    v, noise, t = latents(), latents(seed=1), torch.tensor([300, 700])
    wanted, _ = prior.gradient(v, TEXT, timesteps=t, noise=noise)
    schedule = Schedule.from_scheduler(ddim)
    alpha, sigma = schedule.gather(t)
    r = predict_residual(v, noise, alpha, sigma, network(unet, t), guidance_scale=100.0, prediction=prediction)
    losses = HostLosses(vae, **ALL, batch_reduction=batch_reduction)
    arguments = (r, alpha, schedule.weight(t, "dreamfusion"))
    g, statistics = losses.gradient(v, *arguments, timesteps=t)
    assert torch.equal(g, wanted)
    v.requires_grad_()
    out = losses(v, *arguments, timesteps=t)
    expected = prior(v, TEXT, timesteps=t, noise=noise)
    for name in ("loss", "lsd", "fm", "kl"):
        assert torch.equal(getattr(out, name), getattr(expected, name)), name
    torch.testing.assert_close(gradient_of(out.loss, v), wanted)
    assert statistics.read() == expected.statistics.read() == out.statistics.read()


def test_without_regularisers_the_gradient_is_score_distillation_alone() -> None:
    losses, v, (r, alpha, w), _ = a_step(batch_reduction="sum")
    losses.vae = None  # which is not touched
    g, _ = losses.gradient(v, r, alpha, w)
    assert torch.equal(g, w[:, None, None, None] * r)
    v.requires_grad_()
    out = losses(v, r, alpha, w)
    assert torch.equal(gradient_of(out.loss, v), g)
    assert not out.fm.requires_grad and out.fm == 0


def test_the_terms_add_up() -> None:
    """Turning FM and KL on changes nothing else, and each scalar carries its own gradient."""
    losses, v, arguments, _ = a_step(**ALL)
    g, _ = losses.gradient(v, *arguments)
    v.requires_grad_()
    out = losses(v, *arguments)
    terms = {name: torch.autograd.grad(getattr(out, name), v, retain_graph=True)[0] for name in ("lsd", "fm", "kl")}
    alone, _ = HostLosses().gradient(v, *arguments)
    assert torch.equal(terms["lsd"], alone)
    torch.testing.assert_close(g, terms["lsd"] + 0.01 * terms["fm"] + 0.1 * terms["kl"])


def test_regularisers_can_be_left_out_of_one_call() -> None:
    losses, v, arguments, _ = a_step(**ALL)
    v.requires_grad_()
    out = losses(v, *arguments, regularise=False)
    g, statistics = losses.gradient(v, *arguments, regularise=False)
    alone, _ = HostLosses().gradient(v, *arguments)
    assert torch.equal(gradient_of(out.loss, v), alone) and torch.equal(g, alone)
    assert out.fm == 0 and out.kl == 0 and statistics.read()["fm"] == 0


def test_the_clip_is_the_hosts_and_for_its_term_only() -> None:
    losses, v, (r, alpha, w), _ = a_step(**ALL, clip=0.01)
    g, _ = losses.gradient(v, r, alpha, w)
    open_g, _ = HostLosses(losses.vae, **ALL).gradient(v, r, alpha, w)
    field = w[:, None, None, None] * r
    assert field.abs().max() > 0.01
    torch.testing.assert_close(g - open_g, (field.clamp(-0.01, 0.01) - field) / 2, rtol=1e-4, atol=1e-6)
    v.requires_grad_()
    torch.testing.assert_close(gradient_of(losses(v, r, alpha, w).loss, v), g)


def test_another_field_may_be_distilled() -> None:
    losses, v, (r, alpha, w), _ = a_step(**ALL)
    noise_hat = r + latents(seed=1)
    g, _ = losses.gradient(v, r, alpha, w, field=noise_hat)
    base, _ = losses.gradient(v, r, alpha, w)
    torch.testing.assert_close(g - base, w[:, None, None, None] * latents(seed=1) / 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("as_host", [lambda x: x, lambda x: x[:, None, None, None]], ids=["[1]", "[1, 1, 1, 1]"])
def test_one_t_for_the_batch(as_host) -> None:
    losses, v, (r, alpha, w), t = a_step(**ALL)
    g, statistics = losses.gradient(v, r, as_host(alpha[:1]), as_host(w[:1]), timesteps=t[:1])
    both, _ = losses.gradient(v, r, alpha[:1].expand(2), w[:1].expand(2), timesteps=t)
    assert torch.equal(g, both) and statistics.timesteps.tolist() == [300, 300]
    numbers, _ = losses.gradient(v, r, float(alpha[0]), float(w[0]))
    assert torch.equal(numbers, g)


def test_half_precision_coefficients_are_refused() -> None:
    losses, v, (r, alpha, w), _ = a_step()
    with pytest.raises(TypeError, match="alpha"):
        losses.gradient(v, r, alpha.half(), w)


def test_non_finite_elements_can_be_zeroed_and_are_counted() -> None:
    losses, v, (r, alpha, w), _ = a_step(**ALL, nonfinite="zero")
    r[0, 0, 0, 0] = float("nan")
    g, statistics = losses.gradient(v, r, alpha, w)
    assert g.isfinite().all() and statistics.read()["nonfinite_lsd"] == 1


def test_a_grad_scaler_and_autocast_change_nothing() -> None:
    """A float16 field under autocast, a scaled loss, unscaled gradients: what float32 gives."""
    losses, v, arguments, _ = a_step(**ALL)
    wanted, _ = losses.gradient(v, *arguments)
    field = torch.nn.Parameter(v.clone())
    optimiser = torch.optim.SGD([field], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = losses(field, *arguments).loss
        assert loss.dtype == torch.float32
    scaler.scale(loss).backward()
    scaler.unscale_(optimiser)
    torch.testing.assert_close(field.grad, wanted)


def test_nothing_waits_for_the_device() -> None:
    losses, v, arguments, t = a_step(**ALL)
    v.requires_grad_()
    losses.check()  # makes the decoder, which waits
    with NoSync():
        losses(v, *arguments, timesteps=t).loss.backward()
        losses.gradient(v, *arguments, timesteps=t)


def test_under_no_grad_there_are_values_only() -> None:
    losses, v, arguments, _ = a_step(**ALL)
    with torch.no_grad():
        out = losses(v.requires_grad_(), *arguments)
    assert not out.loss.requires_grad and out.fm > 0


def test_the_decoder_may_be_handed_over() -> None:
    losses, v, arguments, _ = a_step(**ALL)
    decoder = FrozenDecoder(losses.vae, levels=("up0",))
    assert HostLosses(decoder).decoder is decoder
    assert HostLosses(decoder, **ALL).gradient(v, *arguments)[1].levels == ("up0",)
    with pytest.raises(UsageError, match="vae"):
        HostLosses(None, **ALL).gradient(v, *arguments)


def test_an_offloaded_vae_is_said_to_be_one() -> None:
    losses, v, arguments, _ = a_step(**ALL)
    losses.vae.to("meta")
    with pytest.raises(UsageError, match="vae: feature matching needs its weights on a device, and they are offloaded"):
        losses.gradient(v, *arguments)


def test_an_empty_batch() -> None:
    g, _ = HostLosses(tiny_vae(), **ALL).gradient(latents(0), latents(0), torch.ones(0), torch.ones(0))
    assert g.shape == (0, 4, 8, 8)


def test_attach_leaves_the_class_alone() -> None:
    class Host(torch.nn.Module):
        def train_step(self) -> str:
            return "host's"

    host = Host()
    assert attach(host, train_step=lambda: "ours") is host and host.train_step() == "ours"
    assert Host().train_step() == "host's" and not host.state_dict()
    with pytest.raises(UsageError, match="Host: expected an object with a method train_steps"):
        attach(host, train_steps=lambda: 0)


def test_require_names_what_is_missing() -> None:
    with pytest.raises(UsageError, match=r"got one without scheduler\.alphas_cumprod, vae"):
        require(torch.nn.Module(), "scheduler.alphas_cumprod", "vae", "training")
