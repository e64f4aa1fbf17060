"""The hash grid on a CUDA device: agreement with the CPU, determinism, streams, graphs, no synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal
from .test_hash_grid import by_positions, by_table, encode, off_faces

pytestmark = pytest.mark.gpu

LARGE = samples.hash_grid.Grid(n_levels=16, log2_table_size=15, base_resolution=8, growth=1.4)


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def moved(made: dict[str, Any], device: str) -> dict[str, Any]:
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in made.items()}


def step(made: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """The encoding and both gradients, through autograd."""
    x, table = made["positions"].detach().requires_grad_(), made["table"].detach().requires_grad_()
    y = encode(made | {"positions": x, "table": table})
    return y.detach(), *torch.autograd.grad(y, (x, table), made["grad"])


@pytest.mark.parametrize("rays", [False, True])
@pytest.mark.parametrize("name", samples.hash_grid.GRIDS)
def test_agrees_with_the_cpu_and_float64(name: str, rays: bool, poisoned: None) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 5000, rays=rays, count=4900)
    device, truth = moved(made, "cuda"), samples.widen(made)
    assert_close(encode(device), encode(made), encode(truth), factor=OUTPUT, what="encoding")
    assert_close(by_table(device), by_table(made), by_table(truth), factor=GRADIENT, what="table")
    made = off_faces(made) | {"count": None}
    device, truth = moved(made, "cuda"), samples.widen(made)
    assert_close(by_positions(device), by_positions(made), by_positions(truth), factor=GRADIENT, what="positions")


def test_deterministic_sums_have_the_same_bits_ten_times(deterministic: None) -> None:
    made = samples.hash_grid.inputs(LARGE, 100_000, rays=True, device="cuda")
    first = step(made)
    for _ in range(9):
        assert all(bitwise_equal(a, b) for a, b in zip(first, step(made), strict=True))
    assert torch.allclose(first[2], by_table(made), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["hashed", "three_features", "eight_features"])
def test_the_shadow_is_read_and_the_table_gets_the_gradient(name: str) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 3000, device="cuda")
    shadow = made["table"].half()
    table = torch.full_like(made["table"], float("nan")).requires_grad_()
    x = made["positions"].requires_grad_()
    y = torch.ops.ldp_fast.hash_grid(x, table, shadow, None, *made["layout"])
    wanted = step(made | {"table": shadow.float()})
    by_x, by_entry = torch.autograd.grad(y, (x, table), made["grad"])
    assert by_entry.dtype == torch.float32
    for a, b in zip((y, by_x, by_entry), wanted, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_nothing_synchronises() -> None:
    made = samples.hash_grid.inputs(LARGE, 5000, count=4000, device="cuda")
    step(made)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(made)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("exact", [False, True])
def test_a_captured_graph_follows_its_inputs_and_its_count(exact: bool, request: pytest.FixtureRequest) -> None:
    if exact:
        request.getfixturevalue("deterministic")
    made, other = (
        samples.hash_grid.inputs(LARGE, 5000, count=count, seed=count, device="cuda") for count in (4000, 3000)
    )
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(made)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(made)
    for name in ("positions", "table", "grad", "count"):
        made[name].copy_(other[name])
    graph.replay()
    wanted = step(other)
    assert bitwise_equal(results[0], wanted[0]) and bitwise_equal(results[1], wanted[1])
    assert bitwise_equal(results[2], wanted[2]) if exact else torch.allclose(results[2], wanted[2], atol=1e-5)


def test_a_stream_other_than_the_default_is_used() -> None:
    made = samples.hash_grid.inputs(LARGE, 5000, device="cuda")
    wanted = encode(made)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)
        made["table"].zero_()
        late = encode(made)
    side.synchronize()
    assert wanted.any() and not late.any()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs a second CUDA device")
def test_a_device_other_than_the_current_one_is_used() -> None:
    made = samples.hash_grid.inputs(LARGE, 5000)
    on_second = step(moved(made, "cuda:1"))
    for a, b in zip(on_second, step(moved(made, "cuda:0")), strict=True):
        assert a.device.index == 1 and torch.allclose(a.cpu(), b.cpu(), rtol=1e-4, atol=1e-4)


def test_float64_takes_the_reference() -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["hashed"], 50, device="cuda", dtype=torch.float64)
    assert torch.allclose(encode(made), encode(made, "reference"), rtol=1e-12)
