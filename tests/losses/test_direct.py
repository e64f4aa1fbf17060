"""Calls that go past torch's dispatcher: the same results, and back through it where something watches."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast import losses
from ldp_fast.losses import _signatures
from ldp_fast.ops import _direct, _library

from ..support import samples


class Seen(TorchDispatchMode):
    """Notes our operators' names."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "ldp_fast":
            self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Sub(Tensor):
    pass


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes everything go through the dispatcher from now on."""
    return lambda: monkeypatch.setattr(_direct, "watched", lambda: True)


def leaves_of(inputs: dict[str, Any]) -> list[Tensor]:
    return [x for value in inputs.values() for x in (value if isinstance(value, list) else [value]) if wants(x)]


def wants(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def result_and_gradients(op: str, inputs: dict[str, Any]) -> list[Tensor]:
    result = getattr(losses, op)(**inputs)
    first = result[0] if isinstance(result, tuple) else result
    leaves = leaves_of(inputs)
    return [first.detach(), *(torch.autograd.grad(first.sum(), leaves) if leaves else ())]


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    for op in samples.OPERATORS:
        inputs = samples.inputs(op)
        if op in samples.DIFFERENTIABLE:
            inputs["latents"].requires_grad_()
        yield op, inputs
    x, y = samples.feature_matching.inputs().values()
    yield "feature_matching_loss", {"features": x, "features_prime": y}
    yield "feature_matching_loss", {"features": x, "features_prime": [t.detach() for t in y]}
    halves = [torch.cat([a, b]).detach().requires_grad_() for a, b in zip(x, y, strict=True)]
    yield "feature_matching_loss", {"features": halves, "features_prime": None}


@pytest.mark.parametrize("case", range(len(list(cases()))))
def test_past_the_dispatcher_and_through_it_are_the_same_to_the_bit(case: int, dispatched: Callable[[], None]) -> None:
    op, inputs = list(cases())[case]
    direct = result_and_gradients(op, inputs)
    dispatched()
    assert all(torch.equal(a, b) for a, b in zip(direct, result_and_gradients(op, inputs), strict=True))


def test_a_mode_sees_every_operator_forward_and_backward() -> None:
    inputs = samples.latent_kl.inputs()
    inputs["latents"].requires_grad_()
    with Seen() as seen:
        losses.latent_kl_loss(**inputs).backward()
    assert seen.names == ["latent_kl", "latent_kl_backward"]


def test_a_backward_begun_outside_of_a_mode_is_seen_by_it() -> None:
    inputs = samples.latent_kl.inputs()
    loss = losses.latent_kl_loss(inputs["latents"].requires_grad_())
    with Seen() as seen:
        loss.backward()
    assert seen.names == ["latent_kl_backward"]


def test_the_profiler_names_the_operator() -> None:
    with torch.profiler.profile() as profile:
        losses.perturb(**samples.perturb.inputs())
    assert any("ldp_fast::perturb" in event.key for event in profile.key_averages())


def test_fake_tensors_stay_fake() -> None:
    inputs = samples.perturb.inputs()
    with FakeTensorMode() as mode:
        inputs = {k: mode.from_tensor(v) if isinstance(v, Tensor) else v for k, v in inputs.items()}
        inside = losses.perturb(**inputs)
    assert type(inside).__name__ == type(losses.perturb(**inputs)).__name__ == "FakeTensor"


def test_subclasses_and_negative_views_go_through_the_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = samples.perturb.inputs()
    wanted = losses.perturb(**inputs)
    negative = torch.complex(torch.zeros(2, 4, 8, 8), -inputs["latents"]).conj().imag
    assert negative.is_neg() and torch.equal(negative, inputs["latents"])
    monkeypatch.setattr(_direct, "serve", None)
    with pytest.raises(TypeError, match="not callable"):
        losses.perturb(**inputs)
    assert torch.equal(losses.perturb(**inputs | {"latents": negative}), wanted)
    subclassed = losses.perturb(**inputs | {"latents": inputs["latents"].as_subclass(Sub)})
    assert torch.equal(subclassed.as_subclass(Tensor), wanted)


def test_transforms_get_what_the_dispatcher_gives_them() -> None:
    v = samples.latent_kl.inputs()["latents"]
    with pytest.raises(RuntimeError, match="functorch"):
        torch.func.grad(losses.latent_kl_loss)(v)
    each = torch.func.vmap(losses.latent_kl_loss)(v[:, None])
    assert torch.equal(each, torch.stack([losses.latent_kl_loss(x[None]) for x in v]))


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_forward_mode_is_refused(op: str) -> None:
    """A tangent that is left out is a wrong number."""
    inputs = samples.inputs(op)
    name = "latents" if "latents" in inputs else "model_output"
    function, v = getattr(losses, op), inputs[name]

    def of(v: Tensor) -> Any:
        return function(**inputs | {name: v})

    with pytest.raises(RuntimeError, match="expected no forward-mode differentiation"):
        torch.func.jvp(of, (v,), (torch.ones_like(v),))
    with (
        forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="expected no forward-mode differentiation"),
    ):
        of(forward_ad.make_dual(v, torch.ones_like(v)))


@pytest.mark.parametrize("op", samples.DIFFERENTIABLE)
def test_differentiating_twice_is_refused(op: str) -> None:
    inputs = samples.inputs(op)
    v = inputs["latents"].requires_grad_()
    (grad,) = torch.autograd.grad((getattr(losses, op)(**inputs) ** 2).sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once, not twice"):
        grad.sum().backward()


def test_what_passed_once_is_looked_at_again_when_it_changes() -> None:
    inputs = samples.perturb.inputs()
    losses.perturb(**inputs)
    for name, value, error in (
        ("noise", inputs["noise"][:1], "noise: expected the shape"),
        ("noise", inputs["noise"].int(), "noise: expected float16"),
        ("copies", 0, "copies: expected at least 1"),
        ("dtype", torch.int32, "dtype: expected float16"),
        ("alpha", inputs["alpha"].half(), "alpha: expected float32"),
    ):
        for _ in range(2):
            with pytest.raises((TypeError, ValueError), match=error):
                losses.perturb(**inputs | {name: value})


def test_what_passed_is_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_signatures, "_MOST", 8)
    monkeypatch.setattr(_signatures, "_PASSED", set())
    for height in range(1, 30):
        losses.latent_kl_loss(torch.randn(1, 4, height, 8))
    assert 1 <= len(_signatures._PASSED) <= 8


def test_every_argument_of_a_schema_is_given_by_the_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dispatcher fills in defaults; a call past it has to have them all."""
    given: dict[str, int] = {}

    def counted(name: str, *args: Any) -> Any:
        given[name] = len(args)
        return call(name, *args)

    call = _direct.call
    for module in ("functional", "combine_gradients", "feature_matching"):
        monkeypatch.setattr(importlib.import_module(f"ldp_fast.losses.{module}"), "call", counted)
    for op, inputs in cases():
        result_and_gradients(op, inputs)
    assert len(given) == len(samples.OPERATORS) + 1
    for name, count in given.items():
        assert count == len(getattr(torch.ops.ldp_fast, name).default._schema.arguments)
        assert name in _library.OPERATORS
