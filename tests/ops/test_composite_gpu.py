"""Compositing and the fused Adam on a CUDA device: parity with the CPU, graphs, streams, no synchronisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldp_fast.nerf.optimiser import FusedAdam

from ..support import naive_composite as naive
from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal
from .test_composite import CASES, composite
from .test_fused_adam import textbook

pytestmark = pytest.mark.gpu


def on_cpu(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: x.cpu() if isinstance(x, Tensor) else x for k, x in inputs.items()}


@pytest.mark.parametrize("which", [63, 3, 16])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_composite_agrees_with_float64(case: dict[str, Any], which: int, poisoned: None) -> None:
    inputs = samples.composite.inputs(**case, device="cuda")
    at_home = on_cpu(inputs)
    truth, plain = naive.textbook(**samples.widen(at_home)), naive.textbook(**at_home)
    for name, got, theirs, true in zip(naive.NAMES, composite(**inputs), plain, truth, strict=True):
        assert_close(got, theirs, true, factor=OUTPUT, what=name)
    if not case.get("counts", (1,)):
        return
    grads = naive.gradients(composite, inputs, which)
    truth, plain = (naive.gradients(naive.textbook, x, which) for x in (samples.widen(at_home), at_home))
    for got, theirs, true in zip(grads, plain, truth, strict=True):
        assert_close(got, theirs, true, factor=GRADIENT, what=f"gradient of {which}", condition=8.0)


def test_composite_is_deterministic() -> None:
    inputs = samples.composite.inputs((200,) * 300, density=30.0, early_stop=1e-4, device="cuda")
    first = [*composite(**inputs), *naive.gradients(composite, inputs, 63)]
    for _ in range(10):
        again = [*composite(**inputs), *naive.gradients(composite, inputs, 63)]
        assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


def test_composite_in_a_graph() -> None:
    """The graph follows the values and the offsets it finds on the device."""
    inputs = samples.composite.inputs((30, 0, 50), device="cuda", requires_grad=True)
    other = samples.composite.inputs((50, 30, 0), device="cuda", seed=1)
    side = torch.cuda.Stream()

    def both() -> list[Tensor]:
        outputs = composite(**inputs)
        leaves = [inputs[name] for name in ("density", "values", "background")]
        return [*outputs, *torch.autograd.grad(sum(x.sum() for x in outputs), leaves)]

    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        both()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = both()
    with torch.no_grad():
        for name, value in other.items():
            if isinstance(value, Tensor):
                inputs[name].copy_(value)
    graph.replay()
    assert all(bitwise_equal(a, b) for a, b in zip(results, both(), strict=True))


def test_nothing_synchronises() -> None:
    inputs = samples.composite.inputs(device="cuda", requires_grad=True, padding=0)
    param = nn.Parameter(torch.ones(1000, device="cuda"))
    optimiser = FusedAdam([param], shadows={param: torch.ones(1000, device="cuda", dtype=torch.float16)})
    param.grad = torch.ones_like(param)
    optimiser.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        composite(**inputs)[0].sum().backward()
        optimiser.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True}], ids=str)
def test_adam_agrees_with_float64(options: dict[str, Any], shift: int) -> None:
    arguments = samples.fused_adam.inputs(
        (100_003,), device="cuda", shadow=True, grad_scale=2.0, found_inf=0.0, **options
    )
    for name in ("param", "grad", "exp_avg", "exp_avg_sq"):
        arguments[name] = torch.cat([arguments[name].new_zeros(shift), arguments[name]])[shift:]
    at_home = on_cpu(arguments)
    plain, truth = textbook(at_home), textbook(samples.widen(at_home))
    torch.ops.ldp_fast.fused_adam(*arguments.values())
    for name in ("param", "exp_avg", "exp_avg_sq"):
        assert_close(arguments[name], plain[name], truth[name], factor=OUTPUT, what=name)
    assert torch.equal(arguments["shadow"], arguments["param"].half())
    assert not arguments["grad"].any() and arguments["step"] == 4


def test_a_captured_step_counts_and_follows_its_rate() -> None:
    params = [nn.Parameter(torch.ones(1001, device="cuda")) for _ in range(2)]
    rate = torch.tensor(1e-2, device="cuda")
    shadow = torch.empty(1001, device="cuda", dtype=torch.float16)
    captured, plain = FusedAdam([params[0]], lr=rate, shadows={params[0]: shadow}), FusedAdam([params[1]], lr=1e-2)
    gradient = torch.linspace(-1, 1, 1001, device="cuda")
    for param in params:
        param.grad = gradient.clone()
    captured.step()
    plain.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured.step()
    for step in range(5):
        rate.fill_(0.1 / (step + 1))
        plain.param_groups[0]["lr"] = 0.1 / (step + 1)
        for param in params:
            param.grad.copy_(gradient)
        graph.replay()
        plain.step()
    assert captured.state[params[0]]["step"] == 6
    torch.testing.assert_close(params[0], params[1], rtol=1e-6, atol=1e-6)
    assert torch.equal(shadow, params[0].half())
