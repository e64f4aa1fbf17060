"""The same samples on a CUDA device: agreement with float64, graphs, streams, no synchronisation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast import losses

from ..support import naive, samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal, gradient

pytestmark = pytest.mark.gpu

SHAPES = ((2, 4, 64, 64), (3, 16, 33, 31), (1, 16, 128, 128))


def first(result: Any) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def options(op: str) -> dict[str, Any]:
    return {"prediction": "v_prediction"} if op == "guided_residual" else {}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", samples.LAYOUTS)
@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("op", samples.OPERATORS)
def test_agrees_with_float64(op: str, dtype: torch.dtype, layout: str, shape, poisoned: None) -> None:
    inputs = samples.inputs(op, shape=shape, dtype=dtype, layout=layout, device="cuda", **options(op))
    formula = getattr(naive, op)
    assert_close(
        first(getattr(losses, op)(**inputs)), formula(**inputs), formula(**samples.widen(inputs)), factor=OUTPUT
    )
    if op not in samples.DIFFERENTIABLE:
        return
    grad = gradient(getattr(losses, op), inputs, 1024.0)
    if op == "score_distillation_loss":
        truth, eager = (1024.0 * naive.score_distillation_gradient(**x) for x in (samples.widen(inputs), inputs))
    else:
        truth, eager = gradient(formula, samples.widen(inputs), 1024.0), gradient(formula, inputs, 1024.0)
    if eager.isfinite().all() or grad.dtype == torch.float32:
        assert_close(grad, eager, truth, factor=GRADIENT)


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_nothing_synchronises(op: str) -> None:
    inputs = samples.inputs(op, device="cuda", **options(op))
    if op in samples.DIFFERENTIABLE:
        inputs["latents"].requires_grad_()
    first(getattr(losses, op)(**inputs))  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = first(getattr(losses, op)(**inputs))
        if result.requires_grad:
            result.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_a_captured_graph_follows_its_inputs(op: str) -> None:
    inputs = samples.inputs(op, shape=(2, 4, 64, 64), device="cuda", **options(op))
    other = samples.inputs(op, shape=(2, 4, 64, 64), device="cuda", seed=1, **options(op))
    function = getattr(losses, op)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first(function(**inputs))
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = first(function(**inputs))
    for name, value in other.items():
        if isinstance(value, Tensor):
            inputs[name].copy_(value)
    graph.replay()
    assert bitwise_equal(result, first(function(**other)))


def test_a_schedule_on_the_device_moves_inside_a_graph() -> None:
    lambda_fm = torch.tensor(0.0, device="cuda")
    inputs = samples.combine_gradients.inputs(device="cuda", lambda_fm=lambda_fm)
    losses.combine_gradients(**inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        g, _ = losses.combine_gradients(**inputs)
    lambda_fm.fill_(0.5)
    graph.replay()
    assert bitwise_equal(g, losses.combine_gradients(**inputs | {"lambda_fm": 0.5})[0])


@pytest.mark.parametrize("op", samples.OPERATORS)
def test_the_reference_agrees_on_the_same_device(op: str, monkeypatch) -> None:
    inputs = samples.inputs(op, shape=(2, 4, 64, 64), device="cuda", **options(op))
    kernel = first(getattr(losses, op)(**inputs))
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    assert torch.allclose(kernel, first(getattr(losses, op)(**inputs)), rtol=1e-4, atol=1e-4)


def test_a_stream_other_than_the_default_is_used() -> None:
    inputs = samples.perturb.inputs(shape=(8, 4, 64, 64), device="cuda")
    wanted = losses.perturb(**inputs)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        inputs["noise"].zero_()
        late = losses.perturb(**inputs)
    side.synchronize()
    assert not torch.equal(late, wanted)
    assert torch.equal(late, losses.perturb(**inputs))


def test_float64_takes_the_reference() -> None:
    inputs = samples.perturb.inputs(dtype=torch.float64, device="cuda")
    z = losses.perturb(**inputs)
    assert z.dtype == torch.float64 and torch.allclose(z, naive.perturb(**inputs), rtol=1e-12)
