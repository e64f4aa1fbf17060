"""What the trainer sends back into a view is SJC's gradient, and score distillation's, computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.apps.text_to_3d.trainer import Trainer, view_generator
from ldp_fast.errors import UsageError

from . import text_to_3d_runs as runs

ALONE = {"lambda_fm": 0.0, "lambda_kl": 0.0}
SCALE = 3.0


def leaves_of_a_step(trainer: Trainer) -> list[Tensor]:
    """Does one step on views that are leaves; they keep what was sent back, of the mean over the views."""
    leaves: list[Tensor] = []
    rendered = trainer.scene.training_view

    def view(*arguments: Any) -> Any:
        picture, out = rendered(*arguments)
        leaves.append(picture.detach().requires_grad_())
        return leaves[-1], out

    trainer.scene.training_view = view  # type: ignore[method-assign]
    trainer.advance()
    return leaves


def by_hand(trainer: Trainer, y: Tensor, view: int, *, variance_reduction: bool) -> Tensor:
    """SJC's −(D − y) / σ, or −(D − zσ) / σ, mean over noises; the UNet asked in SJC's units; else float64."""
    drawn = trainer._draw(view)
    alpha, sigma = (float(x) for x in trainer.prior.schedule.gather(drawn.timestep))
    level = sigma / alpha  # SJC's σ
    y, noise = y.detach().double(), drawn.noise.double()
    z = y + level * noise
    text = trainer.text.select(torch.full((len(noise),), drawn.direction))
    seen = (z / math.sqrt(1 + level**2)).float()
    with torch.no_grad():
        unconditional, conditional = (
            trainer.prior.unet(seen, drawn.timestep, encoder_hidden_states=states).sample.double()
            for states in (text.uncond, text.text)
        )
    denoised = z - level * (unconditional + SCALE * (conditional - unconditional))
    return (-(denoised - (y if variance_reduction else z)) / level).mean(0, keepdim=True)


@pytest.mark.parametrize("variance_reduction", [True, False])
@pytest.mark.parametrize("levels", [None, [0.5, 5.0]], ids=["t", "sigmas"])
@pytest.mark.parametrize("noises", [1, 3])
def test_sjc(small_model: str, variance_reduction: bool, levels: list[float] | None, noises: int) -> None:
    given = runs.configuration(
        small_model,
        "jacobian-nerf",
        settings={**ALONE, "guidance_scale": SCALE, "noises": noises},
        variance_reduction=variance_reduction,
        sigma_range=levels,
        regularisers={},
        views=2,
    )
    trainer = runs.trainer(given)
    expected_of = [lambda y, v=v: by_hand(trainer, y, v, variance_reduction=variance_reduction) for v in range(2)]
    step0 = [trainer._draw(view) for view in range(2)]
    if levels is not None:
        for drawn in step0:
            alpha, sigma = trainer.prior.schedule.gather(drawn.timestep)
            assert levels[0] <= float(sigma / alpha) <= levels[1]
    parameters = [p.detach().clone() for p in trainer.scene.parameters()]
    leaves = leaves_of_a_step(trainer)
    trainer.scene.step = 0  # what it drew
    assert step0[0].camera == trainer._draw(0).camera
    for leaf, expected in zip(leaves, expected_of, strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.double() * 2, expected(leaf), rtol=2e-4, atol=2e-5)
    # Nothing else moved the field: its views were cut off.
    assert all(torch.equal(a, b) for a, b in zip(parameters, trainer.scene.parameters(), strict=True))


def test_the_two_estimates_differ_by_the_noise(small_model: str) -> None:
    found = []
    for reduced in (True, False):
        given = runs.configuration(
            small_model, "jacobian-nerf", settings=ALONE, variance_reduction=reduced, regularisers={}
        )
        trainer = runs.trainer(given)
        noise = trainer._draw(0).noise
        found.append(leaves_of_a_step(trainer)[0].grad)
    torch.testing.assert_close(found[1] - found[0], noise, rtol=1e-5, atol=1e-5)


def test_weights_count_in_both_estimates(small_model: str) -> None:
    """λ3 and w(t) multiply the whole estimate, its noise too."""
    settings = {**ALONE, "lambda_lsd": 0.5, "weighting": "dreamfusion", "guidance_scale": SCALE}
    given = runs.configuration(
        small_model, "jacobian-nerf", settings=settings, variance_reduction=False, regularisers={}
    )
    trainer = runs.trainer(given)
    leaf = leaves_of_a_step(trainer)[0]
    trainer.scene.step = 0
    _, sigma = trainer.prior.schedule.gather(trainer._draw(0).timestep)
    expected = 0.5 * float(sigma) ** 2 * by_hand(trainer, leaf, 0, variance_reduction=False)
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad.double(), expected, rtol=2e-4, atol=2e-5)


def test_between_sigmas(small_model: str) -> None:
    prior = runs.trainer(runs.configuration(small_model, "jacobian-nerf")).prior
    bars = prior.scheduler.alphas_cumprod.double()
    levels = ((1 - bars) / bars).sqrt()
    first, last = prior.schedule.between_sigmas(0.2, 8.0)
    inside = [t for t in range(len(levels)) if 0.2 <= levels[t] <= 8.0]
    assert (first, last) == (inside[0], inside[-1]) and len(inside) == last - first + 1
    assert prior.schedule.between_sigmas(0.0, math.inf) == (0, len(levels) - 1)
    with pytest.raises(UsageError, match=r"sigma_range: .*0\.0292 to 14\.6.*got 20 30"):
        prior.schedule.between_sigmas(20.0, 30.0)


def test_sigma_range_is_all_that_is_drawn(small_model: str) -> None:
    given = runs.configuration(small_model, "jacobian-nerf", sigma_range=[0.2, 8.0])
    trainer = runs.trainer(given)
    limits = trainer.prior.schedule.between_sigmas(0.2, 8.0)
    assert trainer.sampler.bounds(0.0) == trainer.sampler.bounds(1.0) == limits
    drawn = trainer.sampler.sample(20_000, torch.device("cpu"), view_generator(0, 0, 0))
    assert (int(drawn.min()), int(drawn.max())) == limits


def test_all_terms_are_the_priors_gradient(small_model: str) -> None:
    trainer = runs.trainer(runs.configuration(small_model, settings={"lambda_fm": 0.3, "lambda_kl": 0.2}))
    drawn = trainer._draw(0)
    leaf = leaves_of_a_step(trainer)[0]
    text = trainer.text.select(torch.tensor([drawn.direction]))
    g, statistics = trainer.prior.gradient(leaf, text, timesteps=drawn.timestep, noise=drawn.noise)
    assert leaf.grad is not None and torch.equal(leaf.grad, g)
    assert trainer.latest()["fm"] == pytest.approx(float(statistics.fm), rel=1e-6) and trainer.latest()["fm"] > 0
