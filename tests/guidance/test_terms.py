"""The terms of Eq. 4 alone, on a step that no network made: the formula, both modes, and nobody else has them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ldp_fast
from ldp_fast.guidance import PriorSettings, terms
from ldp_fast.integrations._core import HostLosses

B, SHAPE = 3, (3, 4, 5, 6)
LAMBDAS = {"lambda_fm": 0.3, "lambda_kl": 0.2, "lambda_lsd": 0.7}
SETTINGS = [
    {"scale": scale, "batch_reduction": reduction}
    for scale, reduction in itertools.product(("latent", "literal", "balanced"), ("mean", "sum"))
]


def drawn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def a_step(**changes: Any) -> terms.Step:
    """In float64."""
    alpha, weight = torch.tensor([0.9, 0.5, 0.1]).double(), torch.tensor([0.2, 0.7, 1.0]).double()
    t = torch.tensor([100, 500, 900])
    return dataclasses.replace(terms.Step(drawn(0), drawn(1), alpha, weight, t), **changes)


def matched() -> terms.Matching:
    """Two levels."""
    return terms.Matching(drawn(2), drawn(3), drawn(4)[:2, 0, 0, :B].abs(), torch.zeros(2, B), ("up0", "up1"))


def by_hand(s: PriorSettings, step: terms.Step, matching: terms.Matching) -> dict[str, Tensor]:
    """Each term's gradient as docs/mathematics.md has it, before its λ."""
    v, n = step.latents, step.latents[0].numel()
    a, w = step.alpha.view(-1, 1, 1, 1), step.weight.view(-1, 1, 1, 1)
    mean, variance = v.mean((1, 2, 3), keepdim=True), v.var((1, 2, 3), keepdim=True, unbiased=False)
    assert matching.grad_v is not None
    lsd, kl = w * step.residual, mean + (v - mean) * (1 - 1 / variance)
    fm = matching.grad_v + (1 + a) * matching.grad_v_prime
    if s.scale == "literal":
        kl = kl / n
    elif s.scale == "balanced":
        fm = fm / fm.flatten(1).norm(dim=1).view_as(a) * lsd.flatten(1).norm(dim=1).view_as(a) / 2
    else:
        fm = fm * n
    share = B if s.batch_reduction == "mean" else 1
    return {"lsd": lsd / share, "kl": kl / share, "fm": fm / share}


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_each_term_is_the_formula_in_both_modes(settings: dict[str, Any]) -> None:
    s, step, matching = PriorSettings(**LAMBDAS, **settings), a_step(), matched()
    expected = by_hand(s, step, matching)
    whole = sum(getattr(s, f"lambda_{name}") * each for name, each in expected.items())
    g, statistics = terms.gradient(s, step, matching)
    torch.testing.assert_close(g, whole)
    leaf = step.latents.clone().requires_grad_()
    out = terms.loss(s, leaf, step, matching)
    for name, each in expected.items():
        found = torch.autograd.grad(3 * getattr(out, name), leaf, retain_graph=True)[0]
        torch.testing.assert_close(found, 3 * each)
    torch.testing.assert_close(torch.autograd.grad(out.loss, leaf)[0], whole)
    assert statistics.read() == out.statistics.read() and statistics.levels == ("up0", "up1")
    values = matching.levels.sum(0)
    torch.testing.assert_close(out.fm, values.mean() if s.batch_reduction == "mean" else values.sum())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_without_the_regularisers_it_is_score_distillation(settings: dict[str, Any]) -> None:
    """What a host asks for on latents that are not the diffusion model's."""
    s = PriorSettings(**LAMBDAS, **settings)

    def never() -> Any:
        raise AssertionError("the decoder was asked for")

    step = a_step(regularise=False)
    matching = terms.match(s, never, step)
    expected = by_hand(s, step, matched())["lsd"] * s.lambda_lsd
    torch.testing.assert_close(terms.gradient(s, step, matching)[0], expected)
    leaf = step.latents.clone().requires_grad_()
    out = terms.loss(s, leaf, step, matching)
    torch.testing.assert_close(torch.autograd.grad(out.loss, leaf)[0], expected)
    assert out.fm == 0 and out.kl == 0 and not out.kl.requires_grad


def test_a_host_s_losses_are_the_prior_s_on_the_scale_latent() -> None:
    """The same object is read in the same way: bit for bit, in both modes."""
    host, settings, step = HostLosses(**LAMBDAS), PriorSettings(**LAMBDAS, scale="latent"), a_step()
    assert torch.equal(*(terms.gradient(weights, step, matched())[0] for weights in (host, settings)))
    leaf = step.latents.clone().requires_grad_()
    found, expected = (
        torch.autograd.grad(terms.loss(weights, leaf, step, matched()).loss, leaf)[0] for weights in (host, settings)
    )
    assert torch.equal(found, expected)


def test_scalars_are_of_one_precision() -> None:
    """A VAE in float64 beside float32 latents: what a host adds up stays float32."""
    step = a_step()
    narrow = {name: getattr(step, name).float() for name in ("latents", "residual", "alpha", "weight")}
    leaf = narrow["latents"].clone().requires_grad_()
    out = terms.loss(PriorSettings(**LAMBDAS), leaf, dataclasses.replace(step, **narrow), matched())
    assert {x.dtype for x in (out.loss, out.lsd, out.fm, out.kl)} == {torch.float32}


def test_nobody_else_puts_the_terms_together() -> None:
    """Two places that know the scale and the reduction would drift apart."""
    package = Path(ldp_fast.__file__).parent
    calls = re.compile(r"\b(combine_gradients|latent_kl_loss|score_distillation_loss)\(")
    found = {
        str(path.relative_to(package))
        for room in ("guidance", "integrations", "apps")
        for path in (package / room).rglob("*.py")
        if calls.search(path.read_text())
    }
    assert found == {"guidance/terms.py"}
