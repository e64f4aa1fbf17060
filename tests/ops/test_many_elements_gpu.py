"""Native kernels and Triton's beyond 2³¹ elements: near the end they make what a small run makes of the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import ldp_fast.ops  # noqa: F401  registers them
from ldp_fast import losses

from ..support import samples
from ..support.gpu import MANY, needs_memory
from .common import bitwise_equal

pytestmark = [pytest.mark.gpu, pytest.mark.real_size]

OPS = torch.ops.ldp_fast
TAIL = 1000


@pytest.fixture(autouse=True)
def frees_its_memory() -> Iterator[None]:
    """No test finds the memory of the one before in the allocator's cache."""
    yield
    torch.cuda.empty_cache()


def test_hash_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_memory(30)
    grid = samples.hash_grid.Grid(n_levels=16, log2_table_size=12, base_resolution=8, growth=1.3)
    *_, last = layout = grid.layout()
    assert last == grid.smoothstep
    size = MANY // 32 + TAIL
    table = torch.rand(layout.offsets[-1], 2, device="cuda") - 0.5
    positions = torch.rand(size, 3, device="cuda")
    tail = positions[-TAIL:].clone()
    encoding = OPS.hash_grid(positions, table, None, None, *layout)
    assert encoding.numel() > MANY
    assert bitwise_equal(encoding[-TAIL:], OPS.hash_grid(tail, table, None, None, *layout))
    grad = encoding.zero_()  # only the tail has a gradient
    grad[-TAIL:] = torch.rand(TAIL, 32, device="cuda") - 0.5
    ends = grad[-TAIL:].clone()
    by_table = OPS.hash_grid_backward_table(grad, positions, None, *table.shape, *layout, True)
    of_tail = OPS.hash_grid_backward_table(ends, tail, None, *table.shape, *layout, True)
    # Deterministic sums are of fixed point, with room for as many terms as there are samples: a term of |g| < ½ is
    # rounded to 2^(−1 − 62 + bits of the count) here, and finer in the small run.
    step = 2.0 ** (size.bit_length() - 63)
    torch.testing.assert_close(by_table, of_tail, rtol=2**-22, atol=8 * TAIL * step)
    by_positions = OPS.hash_grid_backward_positions(grad, positions, table, None, None, *layout)
    expected = OPS.hash_grid_backward_positions(ends, tail, table, None, None, *layout)
    assert expected.any() and bitwise_equal(by_positions[-TAIL:], expected)


def test_composite() -> None:
    needs_memory(45)
    channels, each = 64, 50
    rays = MANY // (channels * each) + TAIL // each
    size = rays * each

    def inputs(values: Tensor, offsets: Tensor, background: Tensor, start: int) -> tuple[Any, ...]:
        leaves = [density[start:], values, background]
        return (*leaves[:2], distances[start:], steps[start:], offsets, leaves[2], 1e-4, 10.0)

    values = torch.rand(size, channels, device="cuda")
    assert values.numel() > MANY
    density, steps = 4 * torch.rand(size, device="cuda"), 0.01 + 0.04 * torch.rand(size, device="cuda")
    distances = (1.5 + steps.view(rays, each).cumsum(1)).flatten()
    offsets, background = each * torch.arange(rays + 1, device="cuda"), torch.rand(rays, channels, device="cuda")
    outputs = OPS.composite(*inputs(values, offsets, background, 0))
    few = TAIL // each
    small = inputs(values[-TAIL:].clone(), offsets[: few + 1], background[-few:], size - TAIL)
    small = tuple(x.contiguous() if isinstance(x, Tensor) else x for x in small)
    expected = OPS.composite(*small)
    for one, other in zip(outputs, expected, strict=True):
        assert other.any() and bitwise_equal(one[-len(other) :], other)
    grads = [torch.linspace(-1, 1, x.numel(), device="cuda").view(x.shape) for x in expected]
    spread = [torch.zeros_like(x) for x in outputs]
    for whole, part in zip(spread, grads, strict=True):
        whole[-len(part) :] = part
    big = inputs(values, offsets, background, 0)
    found = OPS.composite_backward(*spread, *big[:6], outputs[1], *big[6:])
    wanted = OPS.composite_backward(*grads, *small[:6], expected[1], *small[6:])
    for one, other in zip(found, wanted, strict=True):
        assert other.any() and bitwise_equal(one[-len(other) :], other)
        assert not one[: -len(other)].any()


def batches() -> tuple[int, int, int, int]:
    """One sample of 2²² elements (2⁸ on the stand-in) more than 2³¹ elements."""
    side = 512 if MANY == 2**31 else 4
    return (MANY // (16 * side * side) + 1, 16, side, side)


def last(inputs: dict[str, Any], batch: int) -> dict[str, Any]:
    """The arguments of the last sample alone; a doubled batch keeps its halves."""
    return {
        k: torch.cat([x[batch - 1 : batch], x[-1:]]) if len(x) == 2 * batch else x[-1:]
        for k, x in inputs.items()
    }  # fmt: skip


def test_guided_residual() -> None:
    needs_memory(40)
    shape = batches()
    noise = torch.randn(shape, dtype=torch.float16, device="cuda")
    output = torch.randn((2 * shape[0], *shape[1:]), dtype=torch.float16, device="cuda")
    inputs = {"noise": noise, "model_output": output, "guidance_scale": torch.rand(shape[0], device="cuda") * 7}
    residual = losses.guided_residual(**inputs)
    assert residual.numel() > MANY
    assert bitwise_equal(residual[-1:], losses.guided_residual(**last(inputs, shape[0])))


def test_combine_gradients() -> None:
    needs_memory(60)
    shape = batches()
    inputs = {
        name: torch.randn(shape, dtype=torch.float16, device="cuda")
        for name in ("latents", "residual", "grad_v", "grad_v_prime")
    }
    inputs |= {"alpha": torch.rand(shape[0], device="cuda"), "weight": torch.rand(shape[0], device="cuda")}
    options: dict[str, Any] = {"lambda_fm": 0.3, "lambda_kl": 0.1, "lambda_lsd": 1.0, "batch_reduction": "sum"}
    g, _ = losses.combine_gradients(**inputs, **options)
    assert g.numel() > MANY
    assert bitwise_equal(g[-1:], losses.combine_gradients(**last(inputs, shape[0]), **options)[0])


def test_march_rays() -> None:
    needs_memory(40)
    few = 500
    inputs = samples.march_rays.inputs(
        few, share=None, resolution=64, step=0.004, jitter=False, capacity=1_000_000, device="cuda"
    )
    positions, distances, steps, offsets, counts = OPS.march_rays(*inputs.values())
    each = int(counts[0])
    assert each == int(counts[1]) > 10_000
    times = MANY // (3 * each) + 1
    many = {name: inputs[name].repeat(times, 1) for name in ("origins", "directions")}
    found = OPS.march_rays(*(inputs | many | {"capacity": times * each}).values())
    assert found[0].numel() > MANY and int(found[4][0]) == int(found[4][1]) == times * each
    for one, other in zip(found[:3], (positions, distances, steps), strict=True):
        assert bitwise_equal(one[-each:], other[:each])
    assert bitwise_equal(found[3][-few - 1 :] - (times - 1) * each, offsets)
