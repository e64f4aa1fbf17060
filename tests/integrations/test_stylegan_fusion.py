"""StyleGAN-Fusion: against its formula with its options, and against the real `sd.py`."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import PNDMScheduler
from torch import Tensor

from ldp_fast import UsageError
from ldp_fast.integrations import stylegan_fusion

from ..ops.common import NoSync
from ..support.models import tiny_unet, tiny_vae
from .hosts import checkout, imported
from .oracle import ALONE, PAPER, FakeHost, assert_same, options, regularisers

TEXT = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3))


def arguments(**changes: Any) -> SimpleNamespace:
    given: dict[str, Any] = {"CFG": 100, "min_step": 10, "max_step": 300, "rescaleCFG_Noise": False, "EG3D": False}
    return options(**{**given, "target_class": "a fish", **changes})


def parts(**changes: Any) -> dict[str, Any]:
    scheduler = PNDMScheduler(1000, 0.00085, 0.012, "scaled_linear", skip_prk_steps=True)
    return {
        "unet": tiny_unet(),
        "vae": tiny_vae(),
        "scheduler": scheduler,
        "alphas": scheduler.alphas_cumprod,
        "text_embeddings": TEXT,
        "args": arguments(**changes),
        "device": "cpu",
    }


def latents(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def hosts_step(host: Any, v: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The host's gradient, mean (ε̂ − ε)², its residual and α_t: t, then ε, then the options, the clamp last."""
    args = host.args
    if t is None:
        t = torch.randint(args.min_step, args.max_step + 1, [1])
    noise, alpha_bar = torch.randn_like(v), host.alphas[t].view(-1, 1, 1, 1)
    z = alpha_bar.sqrt() * v + (1 - alpha_bar).sqrt() * noise
    e_u, e_c = host.unet(torch.cat([z, z]), t, encoder_hidden_states=host.text_embeddings).sample.chunk(2)
    e = e_u + args.CFG * (e_c - e_u)
    if args.rescaleCFG_Noise:
        e, noise = (x * x.numel() ** 0.5 / x.norm() for x in (e, noise))
    r = e - noise
    gradient = (1 - alpha_bar) * r / (100 if args.EG3D else 1)
    return gradient.clamp(-1, 1), r.square().mean(), r, alpha_bar.sqrt().flatten()


def both(lambdas: dict[str, float], t: Tensor | None, **changes: Any) -> tuple[tuple[Any, ...], Any, Any]:
    """The host's step, our step with the same seed, and the wrapped host."""
    host = FakeHost(**parts(**changes))
    torch.manual_seed(4)
    theirs = hosts_step(host, latents(), t)
    assert stylegan_fusion.wrap(host, **lambdas) is host
    torch.manual_seed(4)
    return theirs, host.train_step(latents(), t), host


@pytest.mark.parametrize("changes", [{}, {"rescaleCFG_Noise": True}, {"EG3D": True}, {"CFG": 3}], ids=str)
@pytest.mark.parametrize("t", [None, torch.tensor([250])], ids=["drawn", "given"])
def test_alone_it_is_the_hosts_gradient(t: Tensor | None, changes: dict[str, Any]) -> None:
    theirs, (gradient, number), _ = both(ALONE, t, **changes)
    assert_same(gradient, theirs[0])
    assert float(number) == pytest.approx(float(theirs[1]), rel=1e-3)


def test_the_clamp_is_felt() -> None:
    theirs, (gradient, _), host = both(ALONE, torch.tensor([250]))
    assert theirs[0].abs().max() == 1 and gradient.abs().max() == 1
    assert stylegan_fusion.Guidance(host, clip=None).train_step(latents(), torch.tensor([250]))[0].abs().max() > 1


@pytest.mark.parametrize("eg3d", [False, True])
def test_the_regularisers_are_added_behind_the_clamp(eg3d: bool) -> None:
    theirs, (gradient, _), host = both(PAPER, torch.tensor([250]), EG3D=eg3d)
    extra = regularisers(host.vae, latents(), theirs[2], theirs[3], 0.01, 0.1) / (100 if eg3d else 1)
    assert extra.norm() > 1e-3 * theirs[0].norm()
    assert_same(gradient, theirs[0] + extra)


def test_loss_mode_has_the_same_gradient() -> None:
    _, (gradient, _), host = both(PAPER, torch.tensor([250]))
    v = latents().requires_grad_()
    torch.manual_seed(4)
    (8 * host.ldp.loss(v, torch.tensor([250])).loss).backward()
    assert_same(v.grad, 8 * gradient)


def test_the_regularisers_can_be_left_out_of_the_selection_of_layers() -> None:
    theirs, _, host = both(PAPER, torch.tensor([250]))
    host.ldp.regularise = False
    torch.manual_seed(4)
    assert_same(host.train_step(latents(), torch.tensor([250]))[0], theirs[0])


def test_the_number_is_read_when_it_is_asked_for() -> None:
    host = stylegan_fusion.wrap(FakeHost(**parts()), **PAPER)
    v = latents().requires_grad_()
    with NoSync():
        gradient, number = host.train_step(v)
        with pytest.raises(AssertionError, match="waits for the device"):
            float(number)
    assert not gradient.requires_grad
    value = float(number)
    assert f"Diffusion loss: {number}" == f"Diffusion loss: {value}" and f"{number:.3f}" == f"{value:.3f}"
    assert number + 1 == 1 + number == value + 1 and repr(number) == repr(value)


def test_nan_becomes_zero_and_is_counted() -> None:
    host = stylegan_fusion.wrap(FakeHost(**parts()), **ALONE)
    v = latents()
    v[0, 0, 0, 0] = float("nan")
    gradient, _ = host.train_step(v)
    assert gradient.isfinite().all() and host.ldp.statistics.read()["nonfinite_lsd"] > 0


def test_the_hosts_class_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("sd")
    made.StableDiffusion = lambda args: FakeHost(**{**parts(), "args": args})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sd", made)
    host = stylegan_fusion.StableDiffusion(arguments(CFG=7), lambda_fm=1.0)
    assert host.args.CFG == 7 and host.ldp.losses.lambda_fm == 1.0 and host.ldp.losses.lambda_kl == 0.05
    with pytest.raises(UsageError, match="expected an object with unet, vae"):
        stylegan_fusion.wrap(FakeHost())


def test_against_sd_py() -> None:
    """The real class, made without its `__init__`, on the CPU."""
    folder = checkout("styleganfusion")
    with imported(folder, "sd", "torchvision") as module:
        host = module.StableDiffusion.__new__(module.StableDiffusion)
        torch.nn.Module.__init__(host)
        for name, value in parts().items():
            setattr(host, name, value)
        images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 2 - 1
        [v] = host.to_latent([images])
        torch.manual_seed(4)
        gradient, number = host.train_step(v)
        stylegan_fusion.wrap(host, **ALONE)
        torch.manual_seed(4)
        ours, our_number = host.train_step(v)
        assert_same(ours, gradient)
        assert float(our_number) == pytest.approx(number, rel=1e-3)
        stylegan_fusion.wrap(host, **PAPER)
        torch.manual_seed(4)
        assert (host.train_step(v)[0] - ours).norm() > 1e-3
