"""The fused Adam operator: its formula, what it changes and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ..support import samples
from ..support.tolerances import OUTPUT, assert_close
from .common import NoSync, bitwise_equal

POWER = {"param": 0, "exp_avg": 1, "exp_avg_sq": 2}
STATE = ("param", "grad", "exp_avg", "exp_avg_sq", "step")


def gradient_scale(size: int, weight_decay: float) -> Tensor:
    """The magnitude of each gradient or moment of `sample_adam`."""
    return torch.logspace(-8, 2, size) + weight_decay


def copies(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: x.clone() if isinstance(x, Tensor) else x for k, x in arguments.items()}


def stepped(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments after a step on a copy of them."""
    after = copies(arguments)
    torch.ops.ldp_fast.fused_adam(*after.values())
    return after


def textbook(arguments: dict[str, Any]) -> dict[str, Any]:
    """torch.optim.Adam or AdamW from the same state."""
    a = copies(arguments)
    if a["grad_scale"] is not None:
        a["grad"] /= a["grad_scale"]
    param = torch.nn.Parameter(a["param"])
    make = torch.optim.AdamW if a["decoupled"] else torch.optim.Adam
    optimiser = make(
        [param], lr=float(a["lr"]), betas=(a["beta1"], a["beta2"]), eps=a["eps"], weight_decay=a["weight_decay"]
    )
    param.grad = a["grad"]
    optimiser.state[param] = {k: a[k] for k in ("step", "exp_avg", "exp_avg_sq")}
    optimiser.step()
    return a | {"param": param.detach()}


@pytest.mark.parametrize("zero_grad", [True, False])
@pytest.mark.parametrize("grad_scale", [None, 1024.0])
@pytest.mark.parametrize("decoupled, weight_decay", [(False, 0.0), (False, 0.1), (True, 0.1)])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_is_adam(
    backend: str,
    decoupled: bool,
    weight_decay: float,
    grad_scale: float | None,
    zero_grad: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    options: dict[str, Any] = {"decoupled": decoupled, "weight_decay": weight_decay, "grad_scale": grad_scale}
    arguments = samples.fused_adam.inputs((1001,), zero_grad=zero_grad, shadow=True, **options)
    after, plain, truth = stepped(arguments), textbook(arguments), textbook(samples.widen(arguments))
    for name in ("param", "exp_avg", "exp_avg_sq"):
        assert_close(after[name], plain[name], truth[name], factor=OUTPUT, what=name)
        # Each in units of its own gradient, so that the small ones count.
        unit = gradient_scale(1001, 0.0 if decoupled else weight_decay).double().pow(POWER[name])
        torch.testing.assert_close(after[name] / unit, plain[name] / unit, rtol=1e-6, atol=1e-6)
    assert after["step"] == 4 and torch.equal(after["shadow"], after["param"].half())
    if zero_grad:
        assert bitwise_equal(after["grad"], torch.zeros(1001))
    else:
        assert torch.equal(after["grad"], plain["grad"])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("zero_grad", [True, False])
def test_found_inf_changes_nothing_but_the_gradient(
    zero_grad: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    arguments = samples.fused_adam.inputs(
        found_inf=1.0, grad_scale=2.0, shadow=True, zero_grad=zero_grad, weight_decay=0.1
    )
    arguments["grad"][3] = float("inf")
    after = stepped(arguments)
    for name in ("param", "exp_avg", "exp_avg_sq", "step", "shadow"):
        assert bitwise_equal(after[name], arguments[name]), name
    assert not after["grad"].any() if zero_grad else torch.equal(after["grad"], arguments["grad"])
    taken = stepped(arguments | {"found_inf": torch.zeros(1), "grad": torch.ones_like(arguments["grad"])})
    assert taken["step"] == 4 and not torch.equal(taken["param"], arguments["param"])


@settings(max_examples=30, deadline=None)
@given(size=st.integers(0, 5000), step=st.integers(0, 10**6), shift=st.integers(0, 3), seed=st.integers(0, 100))
def test_any_size_and_step(size: int, step: int, shift: int, seed: int) -> None:
    """Arrays that start anywhere, and bias corrections from the first step to the millionth."""
    arguments = samples.fused_adam.inputs((size,), step=step, seed=seed)
    for name in ("param", "grad", "exp_avg", "exp_avg_sq"):
        arguments[name] = torch.cat([torch.zeros(shift), arguments[name]])[shift:]
    after, plain, truth = stepped(arguments), textbook(arguments), textbook(samples.widen(arguments))
    assert_close(after["param"], plain["param"], truth["param"], factor=OUTPUT, what="param")


def test_the_first_step_has_the_size_of_the_rate() -> None:
    """Bias corrections near zero: 1 − β₂ᵗ is 0.001 at β₂ = 0.999, and must not lose digits."""
    arguments = samples.fused_adam.inputs((100,), step=0) | {"beta2": 0.999}
    arguments["exp_avg"].zero_(), arguments["exp_avg_sq"].zero_()
    arguments["grad"] = torch.where(torch.arange(100) % 2 == 0, 3.0, -3.0)
    arguments["param"].zero_()
    moved = stepped(arguments)["param"]
    torch.testing.assert_close(moved, -0.01 * arguments["grad"].sign(), rtol=3e-7, atol=0)


def test_nan_goes_where_it_came_from() -> None:
    arguments = samples.fused_adam.inputs()
    arguments["grad"][2, 1] = float("nan")
    after = stepped(arguments)
    for name in ("param", "exp_avg", "exp_avg_sq"):
        assert after[name].isnan().sum() == 1 and after[name][2, 1].isnan(), name


def test_float64_takes_the_reference() -> None:
    arguments = samples.widen(samples.fused_adam.inputs()) | {"step": torch.tensor(3.0), "lr": torch.tensor(0.01)}
    torch.testing.assert_close(stepped(arguments)["param"], textbook(arguments)["param"], rtol=1e-7, atol=1e-9)
    assert stepped(arguments)["param"].dtype == torch.float64


def test_versions_are_counted() -> None:
    """Autograd has to notice what changed under a graph that needs it."""
    arguments = samples.fused_adam.inputs(shadow=True)
    before = {name: arguments[name]._version for name in (*STATE, "shadow")}
    torch.ops.ldp_fast.fused_adam(*arguments.values())
    assert all(arguments[name]._version > version for name, version in before.items())
    param = torch.ones(3, requires_grad=True)
    square = param.square().sum()
    with torch.no_grad():
        torch.ops.ldp_fast.fused_adam(*(samples.fused_adam.inputs((3,)) | {"param": param}).values())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.backward()


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_nothing_waits_for_the_device(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    arguments = samples.fused_adam.inputs(shadow=True, grad_scale=2.0, found_inf=0.0, weight_decay=0.1)
    with NoSync():
        torch.ops.ldp_fast.fused_adam(*arguments.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    for options in ({}, {"shadow": True, "grad_scale": 2.0, "found_inf": 0.0}, {"found_inf": 1.0, "zero_grad": False}):
        arguments = samples.fused_adam.inputs(dtype=dtype, **options)
        torch.library.opcheck(torch.ops.ldp_fast.fused_adam.default, tuple(arguments.values()))


def test_compiles() -> None:
    """torch.compile keeps the changes of the arguments (auto_functionalize)."""

    def function(*arguments: Any) -> Tensor:
        torch.ops.ldp_fast.fused_adam(*arguments)
        return arguments[0] * 2

    expected = stepped(samples.fused_adam.inputs())
    arguments = samples.fused_adam.inputs()
    doubled = torch.compile(function, backend="aot_eager", fullgraph=True)(*arguments.values())
    assert torch.equal(doubled, expected["param"] * 2)
    assert all(torch.equal(arguments[name], expected[name]) for name in STATE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": torch.zeros(3)}, r"fused_adam: grad: expected the parameter's shape \[37, 2\], got \[3\]"),
        ({"exp_avg": torch.zeros(2, 37).t()}, "fused_adam: exp_avg: expected a contiguous tensor"),
        ({"step": torch.zeros(3)}, "fused_adam: step: expected one element"),
        ({"lr": torch.zeros((), dtype=torch.int64)}, "fused_adam: lr: expected float32"),
        ({"shadow": torch.zeros(37, 3).half()}, "fused_adam: shadow: expected a contiguous tensor of 74 elements"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ldp_fast.fused_adam(*(samples.fused_adam.inputs() | change).values())
