"""What a step of adaptation does: what is trained and what is not, what is drawn, layers, the average."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from ldp_fast.apps.adapt import selection
from ldp_fast.apps.adapt.defaults import resolve
from ldp_fast.apps.adapt.draws import LATENT, NOISE, Draws
from ldp_fast.apps.adapt.experiment import lost
from ldp_fast.apps.adapt.trained import Pair, named
from ldp_fast.errors import UsageError
from ldp_fast.runs.seeds import mixed_generator

from . import adapt_stub as stub

KINDS = ("weight", "modulation.weight", "noise_strength")
HOSTS = {f"convs.{i}.{kind}" for i in range(4) for kind in KINDS}


def moved_in(experiment: Any) -> set[str]:
    """Names of the tensors that differ from the source's."""
    before = experiment.pair.source.state_dict()
    return {name for name, x in experiment.pair.adapted.state_dict().items() if not torch.equal(x, before[name])}


def test_the_hosts_tensors_are_trained_and_no_others() -> None:
    source: Any = stub.tiny()
    before = {name: x.clone() for name, x in source.state_dict().items()}
    experiment = stub.experiment(source=source, steps=3)
    for _ in range(3):
        experiment.advance()
    assert set(experiment.pair.parameters) == HOSTS and moved_in(experiment) == HOSTS
    assert all(torch.equal(x, before[name]) for name, x in source.state_dict().items())
    assert experiment.pair.adapted.style is source.style, "w of both is that of one mapping"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["host"], HOSTS),
        (["to_rgb1"], {"to_rgb1.weight", "to_rgb1.bias", "to_rgb1.modulation.weight", "to_rgb1.modulation.bias"}),
        (["constant", "convs.1.weight"], {"constant", "convs.1.weight"}),
        (["convs.*.bias"], {f"convs.{i}.{kind}" for i in range(4) for kind in ("bias", "modulation.bias")}),
        (["conv1", "host"], HOSTS | {f"conv1.{kind}" for kind in (*KINDS, "bias", "modulation.bias")}),
    ],
)
def test_names_say_what_is_trained(words: list[str], expected: set[str]) -> None:
    assert set(named(stub.tiny(), words)) == expected


def test_all_is_all_but_the_mapping() -> None:
    generator = stub.tiny()
    expected = {name for name, _ in generator.named_parameters() if not name.startswith("style.")}
    assert set(named(generator, ["all"])) == expected and "constant" in expected


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("conv", "'conv' does not name any parameter of the generator; did you mean convs?"),
        ("style.fc", "style.fc makes w, which stays as it is"),
        ("xyz", "expected host, all, or names within constant, conv1, to_rgb1, convs, to_rgbs"),
    ],
)
def test_names_that_match_nothing_are_refused(word: str, said: str) -> None:
    with pytest.raises(UsageError, match="--train: ") as error:
        named(stub.tiny(), [word])
    assert said in str(error.value)


def test_a_step_is_adam_on_the_mean_gradient_of_its_samples() -> None:
    """Beside a plain loop over the samples, with torch's autograd through one graph."""
    experiment = stub.experiment(batch=3, steps=1, noise="fresh", learning_rate=0.01)
    seed, source = experiment.configuration.seed, stub.tiny()
    other = stub.tiny()
    own = dict(other.named_parameters())
    total = torch.zeros(())
    for sample in range(3):
        z = torch.randn(6, generator=mixed_generator(seed, 0, sample, LATENT))
        w = source.mapping(z[None])
        picture = other.synthesis(w.detach(), noise=[mixed_generator(seed, 0, sample, NOISE)])
        noise = torch.randn(picture.shape[1:], generator=mixed_generator(seed, 0, sample, 5))
        wanted = torch.tensor([1.0, -1.0, -1.0])[:, None, None] + 0.1 * noise
        total = total + (picture - wanted).square().sum() / 2 / 3
    total.backward()
    gradients = {name: own[name].grad for name in HOSTS}
    optimizer = torch.optim.Adam([own[name] for name in experiment.pair.parameters], lr=0.01, betas=(0.0, 0.99**0.8))
    experiment.advance()
    optimizer.step()
    norm = torch.stack([g.norm() for g in gradients.values() if g is not None]).norm()
    assert experiment.latest()["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert experiment.latest()["distance"] == pytest.approx(float(total.detach()) * 2 / (3 * 16 * 16), rel=1e-4)
    for name, p in experiment.pair.parameters.items():
        torch.testing.assert_close(p.detach(), own[name].detach(), rtol=1e-4, atol=1e-5, msg=name)


def test_pictures_become_what_the_guide_wants() -> None:
    experiment = stub.experiment(steps=40, batch=2, learning_rate=0.02, train=["all"])
    seen = []
    for _ in range(40):
        experiment.advance()
        seen.append(experiment.latest()["distance"])
    assert seen[-1] < 0.5 * seen[0] and not experiment.not_finite()
    assert experiment.latest()["changed"] > 0.1
    assert experiment.history.shape == (40, len(experiment.columns))


def test_pictures_that_are_too_large_have_diverged() -> None:
    experiment = stub.experiment(steps=2, train=["to_rgbs.1.bias"])
    experiment.advance()
    assert experiment.latest()["amplitude"] < 10 and not experiment.not_finite()
    with torch.no_grad():
        experiment.pair.adapted.to_rgbs[1].bias.fill_(1e4)
    experiment.advance()
    assert experiment.latest()["amplitude"] == pytest.approx(1e4, rel=0.01)
    (said,) = experiment.not_finite()
    assert re.fullmatch(r"the pictures are beyond 1000 \(root mean square \d+\), as good as", said), said
    with torch.no_grad():
        experiment.pair.adapted.to_rgbs[1].bias.fill_(float("inf"))
    experiment.advance()
    assert "the pictures are not finite" in f"{', '.join(experiment.not_finite())} not finite"


@pytest.mark.parametrize("value", [8.0, 1e4, float("nan")])
def test_a_generator_that_is_out_of_range_to_begin_with(value: float) -> None:
    source: Any = stub.tiny()
    with torch.no_grad():
        source.to_rgbs[1].bias.fill_(value)
    experiment = stub.experiment(source=source, steps=2)
    experiment.advance()
    said = "the generator's own pictures are out of range, before anything was learned: their root mean square is "
    with pytest.raises(FloatingPointError, match=said):
        experiment.not_finite()
    experiment.advance()
    with pytest.raises(FloatingPointError, match=said):
        experiment.not_finite()


@pytest.mark.parametrize(("value", "found"), [(8.0, True), (-1.0, True), (0.99, False), (3.0, True)])
def test_saturated_pictures_have_diverged(value: float, found: bool) -> None:
    """Their numbers are finite, and nobody would call them pictures."""
    experiment = stub.experiment(steps=2, batch=2, train=["to_rgbs.1.bias"])
    experiment.advance()
    assert not experiment.not_finite()
    synthesis = experiment.pair.adapted.synthesis
    experiment.pair.adapted.synthesis = lambda w: 0 * synthesis(w) + value
    experiment.advance()
    said = experiment.not_finite()
    assert bool(said) == found and (not found or said[0].startswith("the pictures are saturated"))


def test_bright_pictures_are_pictures() -> None:
    bright = torch.full((2, 3, 8, 8), 1.5)
    bright[:, 1:, 2:5, 2:5] = -3.0
    assert not lost(bright).any(), "a red square before white, beyond the range"
    assert lost(torch.cat([bright[:1], 9 * torch.randn(1, 3, 8, 8)])).tolist() == [False, True]
    assert not lost(torch.zeros(1, 3, 8, 8)).any(), "a plain grey may be what is asked for"


def test_the_embedded_models_set_is_the_hosts_but_for_noise() -> None:
    words = resolve({}, {"prompt": "x", "device": "cpu"})["train"]
    assert set(named(stub.tiny(), words)) == {name for name in HOSTS if "noise" not in name}


def test_draws_depend_on_seed_step_and_sample_alone() -> None:
    three, one = Draws(4, 7, (0, 1, 2)), Draws(4, 7, (1,))
    assert torch.equal(three.latents(5)[1:2], one.latents(5))
    drawn = [tuple(x.latents(3)[0].tolist()) for x in (one, Draws(5, 7, (1,)), Draws(4, 8, (1,)), Draws(4, 7, (2,)))]
    assert len(set(drawn)) == 4
    streams = {tuple(torch.randn(3, generator=one.generators(s)[0]).tolist()) for s in (LATENT, NOISE, 5)}
    assert len(streams) == 3


def test_the_guide_is_told_which_samples_and_how_far_the_run_is() -> None:
    guide = stub.Red()
    experiment = stub.experiment(guide, steps=4, batch=3, seed=9)
    experiment.advance()
    experiment.advance()
    assert guide.seen == [(Draws(9, 0, (0, 1, 2)), 0.0), (Draws(9, 1, (0, 1, 2)), 0.25)]


def test_sources_are_made_for_who_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for wants in (True, False):
        experiment = stub.experiment(stub.Red(wants), steps=2)
        made, synthesis = list[int](), experiment.pair.source.synthesis
        monkeypatch.setattr(experiment.pair.source, "synthesis", lambda w, n=made, f=synthesis: n.append(1) or f(w))
        experiment.advance()
        assert len(made) == wants and ("changed" in experiment.latest()) == wants


def test_an_average_follows_the_weights() -> None:
    experiment = stub.experiment(steps=3, ema=0.75)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in experiment.pair.parameters}
    for _ in range(3):
        experiment.advance()
        for name, p in experiment.pair.parameters.items():
            seen[name].append(p.detach().clone())
    # Of the weights after each step alone, not of those before the first: 1, 3/4 and 9/16, the newest counting most.
    ages = (0.75**2, 0.75, 1.0)
    expected = {name: sum(a * x for a, x in zip(ages, xs, strict=True)) / sum(ages) for name, xs in seen.items()}
    result = experiment.pair.result()
    for name, p in result.named_parameters():
        wanted = expected.get(name, experiment.pair.source.get_parameter(name))
        torch.testing.assert_close(p.detach(), wanted.detach(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(result.convs[0].weight, experiment.pair.adapted.convs[0].weight)


def test_without_an_average_the_result_is_what_is_trained() -> None:
    pair = Pair(stub.tiny(), ["convs.0.weight"])
    assert pair.result() is pair.adapted and not pair.average


def test_layers_are_chosen_by_how_far_a_step_moves_their_w() -> None:
    """Beside a loop: one sample at a time, one entry of w⁺ at a time."""
    experiment = stub.experiment(steps=4, select_layers=2, select_samples=3, batch=2)
    generator, c = experiment.pair.adapted, experiment.configuration
    moved = torch.zeros(generator.layers)
    for sample in range(3):
        draws = Draws(c.seed, 0, (2**16 + sample,))
        leaf = generator.mapping(draws.latents(6)).detach().clone().requires_grad_()
        picture = generator.synthesis(leaf)
        gradient, _ = stub.Red().gradient(picture.detach(), picture.detach(), draws, 0.0)
        picture.backward(gradient)
        assert leaf.grad is not None
        moved += (leaf.detach() - (leaf.detach() - 0.01 * leaf.grad)).abs().mean(2)[0]
    layers = ["conv1", "to_rgb1", "convs.0", "convs.1", "convs.2", "convs.3"]
    best = sorted(range(6), key=lambda index: -float(moved[index]))[:2]
    experiment.advance()
    assert set(experiment.layers) == {layers[index] for index in best}
    expected = {f"{layer}.{kind}" for layer in experiment.layers for kind in KINDS}
    assert moved_in(experiment) <= expected and moved_in(experiment) & expected


def test_all_layers_can_be_chosen_and_no_more() -> None:
    experiment = stub.experiment(select_layers=6, select_every=2)
    experiment.advance()
    assert len(experiment.layers) == 6
    with pytest.raises(UsageError, match="--select-layers: expected at most 6, the layers of the generator; got 7"):
        stub.experiment(select_layers=7)


def test_layers_are_chosen_every_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, at = stub.experiment(select_layers=1, select_every=3, steps=5), []
    chosen = selection.chosen

    def noted(*arguments: Any) -> list[str]:
        at.append(experiment.step)
        return chosen(*arguments)

    monkeypatch.setattr(selection, "chosen", noted)
    for _ in range(5):
        experiment.advance()
    assert at == [0, 3]


def test_a_tie_is_won_by_the_coarser_layer() -> None:
    assert selection.chosen(["a", "b", "c"], torch.tensor([1.0, 2.0, 2.0]), 1) == ["b"]
    assert selection.chosen(["a", "b", "c"], torch.tensor([3.0, 1.0, 2.0]), 2) == ["a", "c"]


def test_only_layers_of_which_something_is_trained_are_chosen() -> None:
    experiment = stub.experiment(train=["convs.0.weight"], select_layers=1, steps=1)
    experiment.advance()
    assert experiment.layers == ["convs.0"]
    with pytest.raises(UsageError, match="--select-layers: expected at most 1, the layers of which --train"):
        stub.experiment(train=["convs.0.weight"], select_layers=2, steps=1)
