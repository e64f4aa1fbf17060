"""A generator of somebody's own, adapted from Python: it stays as it was, and what cannot be adapted is one line."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.apps.adapt import own
from ldp_fast.errors import UsageError

from . import adapt_stub as stub


@pytest.fixture(autouse=True)
def red(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "load_guide", lambda configuration: stub.Red())


class Foreign(nn.Module):
    """Somebody's own generator: another w, no truncation, no noise, pictures that are not square."""

    z_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Linear(5, 7)
        self.paint = nn.Linear(7, 3 * 8 * 12)

    def synthesis(self, w: Tensor) -> Tensor:
        found: Tensor = self.paint(w).view(-1, 3, 8, 12)
        return found


def test_a_generator_of_your_own_is_adapted() -> None:
    generator, steps = Foreign(), list[int]()
    before = {name: x.clone() for name, x in generator.state_dict().items()}
    adapted = own.adapt(
        generator, "a red sphere", progress=lambda e: steps.append(e.step), steps=30, learning_rate=0.05, device="cpu"
    )
    assert steps == list(range(1, 31)) and isinstance(adapted, Foreign)
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())
    assert torch.equal(adapted.mapping.weight, generator.mapping.weight)
    assert adapted.mapping is not generator.mapping and generator.training
    assert all(p.requires_grad for p in generator.parameters()), "yours stays as it was"
    z = torch.randn(4, 5)
    after, source = (g.synthesis(g.mapping(z)).mean((0, 2, 3)) for g in (adapted, generator))
    wanted = torch.tensor([1.0, -1.0, -1.0])
    assert (after - wanted).abs().max() < 0.5 * (source - wanted).abs().max()
    assert not any(p.requires_grad for p in adapted.parameters())


@pytest.mark.parametrize(
    ("generator", "settings", "said"),
    [
        (nn.Linear(2, 2), {}, "generator: expected a module with .*; Linear lacks mapping, synthesis, z_dim"),
        (Foreign(), {"train": ["host"]}, "--train: 'host' does not name .* lacks layers convs"),
        (Foreign(), {"select_layers": 1}, "--select-layers: expected a generator that names its layers"),
        (Foreign(), {"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        (Foreign(), {"guidance": "clip-directional"}, "source_prompt: expected what the generator makes before"),
    ],
)
def test_what_cannot_be_adapted_is_refused(generator: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        own.adapt(generator, "a red sphere", device="cpu", **settings)


def test_pictures_of_another_shape_are_refused() -> None:
    generator = Foreign()
    generator.paint = nn.Linear(7, 4)
    generator.synthesis = lambda w: generator.paint(w)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match=r"expected pictures \[1, 3, H, W\] of one z, got \[1, 4\]"):
        own.check_generator(generator)


def test_a_diverged_adaptation_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(stub.Red):
        def gradient(self, *arguments: Any) -> Any:
            found, values = super().gradient(*arguments)
            return found * float("nan"), values

    monkeypatch.setattr(own, "load_guide", lambda configuration: Broken())
    with pytest.raises(
        FloatingPointError, match="it diverged: distance, gradient_norm, the weights and the pictures are not finite"
    ):
        own.adapt(Foreign(), "a red sphere", device="cpu", steps=2)


class Restless(Foreign):
    """With what moves, or draws, while it makes pictures."""

    made: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.normal, self.drop = nn.BatchNorm1d(7), nn.Dropout(0.5)
        self.register_buffer("made", torch.zeros(()))

    def synthesis(self, w: Tensor) -> Tensor:
        self.made += 1
        return super().synthesis(self.drop(self.normal(w)))


def test_the_callers_generator_stays_as_it_was() -> None:
    generator = Restless().train()
    before, drawn = copy.deepcopy(generator.state_dict()), torch.get_rng_state()
    own.check_generator(generator)
    own.adapt(generator, "a red sphere", steps=1, device="cpu")
    assert all(torch.equal(x, before[name]) for name, x in generator.state_dict().items())
    assert generator.training and generator.normal.training and torch.equal(torch.get_rng_state(), drawn)
    assert all(p.grad is None and p.requires_grad for p in generator.parameters())


def test_a_generator_whose_parameters_were_frozen_is_trained() -> None:
    generator = Foreign().requires_grad_(False)
    adapted = own.adapt(generator, "a red sphere", steps=1, device="cpu")
    assert not torch.equal(adapted.paint.weight, generator.paint.weight)


def with_(name: str, value: Any) -> Any:
    generator = Foreign()
    generator.__dict__[name] = value
    if name in generator._modules:
        del generator._modules[name]
    return generator


class Kept(Foreign):
    """Holds on to its last picture, with its graph."""

    def synthesis(self, w: Tensor) -> Tensor:
        self.last = super().synthesis(w)
        return self.last


class Noisy(Foreign):
    def mapping(self, z: Tensor) -> Tensor:  # type: ignore[override]
        raise IndexError("no such\nlayer")


FAILING: list[tuple[Any, dict[str, Any], str]] = [
    (with_("mapping", None), {}, "lacks mapping$"),
    (with_("mapping", 3), {}, "expected a function mapping of Foreign, got 3"),
    (with_("mapping", lambda z: None), {}, r"expected w of mapping\(z\), got None"),
    (with_("mapping", lambda z: z[:, :3]), {}, r"synthesis\(w\) of the w of one z failed with RuntimeError: .*shapes"),
    (Noisy(), {}, r"mapping\(z\) of one z failed with IndexError: .*no such"),
    (with_("z_dim", None), {}, "lacks z_dim"),
    (with_("z_dim", 5.0), {}, "expected z_dim of Foreign to be a whole number of at least 1, got 5.0"),
    (with_("z_dim", True), {}, "expected z_dim of Foreign to be a whole number of at least 1, got True"),
    (with_("z_dim", 6), {}, r"mapping\(z\) of one z failed with RuntimeError: "),
    (with_("synthesis", lambda w: None), {}, r"expected pictures \[1, 3, H, W\] of one z, got None"),
    (
        with_("synthesis", lambda w: torch.zeros(1, 3, 4, 4)),
        {},
        r"pictures \[2, 3, H, W\] of two z, got \[1, 3, 4, 4\]",
    ),
    (
        with_("synthesis", lambda w: torch.zeros(len(w), 3, 4, 4)),
        {},
        "with a gradient by what is trained; these have none",
    ),
    (with_("synthesis", Foreign().synthesis), {}, "with a gradient by what is trained; these have none"),
    (with_("synthesis", lambda w: w.new_full((len(w), 3, 4, 4), torch.nan)), {}, "one z have NaN or infinity"),
    (with_("synthesis", lambda w: torch.ones(len(w), 3, 4, 4).int()), {}, "of real numbers, .* got torch.int32"),
    (with_("lock", threading.Lock()), {}, "expected a module that copy.deepcopy can copy"),
    (Kept(), {}, "expected a module that copy.deepcopy can copy, before and after it makes pictures"),
    (Foreign().half(), {}, "in float32 or float64 to train, paint.weight is torch.float16"),
    (Foreign().bfloat16(), {"train": ["paint.bias"]}, "in float32 or float64 to train, paint.bias is torch.bfloat16"),
    (Foreign(), {"truncation": 0.5}, r"mapping\(z, 0.5\) of one z failed with TypeError"),
    (Foreign(), {"noise": "fresh"}, r"synthesis\(w, noise=…\) of the w of one z failed with TypeError"),
]


@pytest.mark.parametrize(("generator", "settings", "said"), FAILING)
def test_what_fails_is_one_line(generator: Any, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        own.adapt(generator, "a red sphere", device="cpu", steps=1, **settings)
    assert str(error.value).startswith("generator: ") and "\n" not in str(error.value)


def test_a_picture_that_does_not_fit_into_memory_is_not_a_fault_of_the_generator() -> None:
    def lacks(w: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        own.check_generator(with_("synthesis", lacks))


def test_a_divergence_is_heard_of_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(stub.Red):
        def gradient(self, pictures: Tensor, sources: Tensor, draws: Any, progress: float) -> Any:
            found, values = super().gradient(pictures, sources, draws, progress)
            return found * (float("nan") if draws.step >= 12 else 1), values

    monkeypatch.setattr(own, "load_guide", lambda configuration: Broken())
    steps = list[int]()
    with pytest.raises(FloatingPointError, match=r"it diverged: .* not finite, before step 20; lower"):
        own.adapt(Foreign(), "a red sphere", device="cpu", steps=500, progress=lambda e: steps.append(e.step))
    assert steps[-1] == 19
