"""The occupancy grid: which cells are drawn, what becomes of their averages, and the bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import reference
from ldp_fast.ops import _library, _native
from ldp_fast.reference.occupancy import Grid, morton, morton_inverse

from ..support import samples
from .common import NoSync, bitwise_equal

ops = torch.ops.ldp_fast
needs_extension = pytest.mark.skipif(_native.extension() is None, reason="the extension was not built")

SAMPLES = st.fixed_dictionaries(
    {
        "box": st.sampled_from([samples.occupancy.BOX, samples.occupancy.UNEVEN_BOX]),
        "resolution": st.sampled_from([4, 8, 16]),
        "cascades": st.sampled_from([1, 2, 3, 8]),
        "uniform": st.sampled_from([0, 1, 200]),
        "occupied": st.sampled_from([0, 1, 200]),
        "threshold": st.sampled_from([0.0, 0.8, 2.0]),
        "seed": st.integers(0, 2**40),
    }
)
FLOATS = st.floats(0, 100, width=32) | st.sampled_from([0.0, 1e12, float("inf"), float("nan")])


@needs_extension
@given(options=SAMPLES)
@settings(deadline=None, max_examples=40)
def test_native_draws_the_samples_of_the_reference(options: dict[str, Any]) -> None:
    inputs = samples.occupancy.inputs(**options)
    for ours, wanted in zip(ops.occupancy_samples(**inputs), reference.occupancy_samples(**inputs), strict=True):
        assert bitwise_equal(ours, wanted)


@needs_extension
@given(
    ema=st.lists(FLOATS | st.just(-1.0), min_size=1, max_size=40),
    samples=st.lists(st.tuples(st.integers(0, 39), FLOATS | st.sampled_from([-1.0, -0.0])), max_size=60),
    decay=st.sampled_from([0.0, 0.95, 1.0]),
)
@settings(deadline=None, max_examples=60)
def test_native_updates_as_the_reference(ema: list[float], samples: list[tuple[int, float]], decay: float) -> None:
    cells = torch.tensor([i % len(ema) for i, _ in samples], dtype=torch.int64)
    arguments = (torch.tensor(ema), cells, torch.tensor([x for _, x in samples], dtype=torch.float32), decay)
    assert torch.equal(
        ops.occupancy_update(*arguments).nan_to_num(-7.0), reference.occupancy_update(*arguments).nan_to_num(-7.0)
    )


@needs_extension
@pytest.mark.parametrize("cells", [8, 4096, 8192, 8192 * 3 + 80])
@pytest.mark.parametrize("threshold", [0.0, 0.01, 0.6])
def test_native_packs_as_the_reference(cells: int, threshold: float) -> None:
    ema = torch.rand(cells) ** 4
    (bits, used), (wanted, limit) = ops.occupancy_bits(ema, threshold), reference.occupancy_bits(ema, threshold)
    assert torch.allclose(used, limit, rtol=2e-7) and bitwise_equal(bits, reference.occupancy_bits(ema, used.item())[0])
    assert (bits != wanted).sum() <= (used != limit).sum() * 2


@pytest.mark.parametrize("cascades", [1, 3])
@pytest.mark.parametrize("box", [samples.occupancy.BOX, samples.occupancy.UNEVEN_BOX])
def test_a_full_update_visits_every_cell_once(cascades: int, box: list[float]) -> None:
    inputs = samples.occupancy.inputs(cascades=cascades, box=box)
    cells, positions = ops.occupancy_samples(**inputs)
    assert torch.equal(cells, torch.arange(cascades * 8**3))
    centre = (torch.tensor(box[:3]) + torch.tensor(box[3:])) / 2
    side = torch.tensor(box[3:]) - torch.tensor(box[:3])
    for cascade in range(cascades):
        own = positions[cascade * 8**3 : (cascade + 1) * 8**3]
        size = side * 2.0 ** (cascade - cascades + 1)
        place = (own - (centre - size / 2)) / size * 8  # in cells of this cascade
        inside = place - morton_inverse(torch.arange(8**3))
        assert (inside > -1e-5).all() and (inside < 1 + 1e-5).all()
        assert abs(inside.mean() - 0.5) < 0.05 and inside.std() > 0.25, "not spread over the cell"


@given(index=st.tuples(*[st.integers(0, 1023)] * 3))
def test_morton_codes_there_and_back(index: tuple[int, int, int]) -> None:
    code = sum((index[axis] >> bit & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3))
    assert morton(torch.tensor(index)).item() == code
    assert morton_inverse(torch.tensor(code)).tolist() == list(index)


@pytest.mark.parametrize("cascades", [1, 2, 4])
def test_a_point_is_in_the_finest_cascade_around_it(cascades: int) -> None:
    """By another way of reckoning: scale about the centre, one cascade after another."""
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(4000, 3, generator=generator, dtype=torch.float64) * 2 - 1) * 2.0 ** -torch.randint(
        0, cascades, (4000, 1), generator=generator
    )
    cells = Grid.of(samples.occupancy.BOX, 16, cascades, points).cells(points)
    finest, indices = [], []
    for point in points.tolist():
        k = next(k for k in range(cascades) if max(map(abs, point)) < 2.0 ** (k - cascades + 1))
        finest.append(k)
        indices.append([int((x / 2.0 ** (k - cascades + 1) + 1) / 2 * 16) for x in point])
    assert torch.equal(cells, torch.tensor(finest) * 16**3 + morton(torch.tensor(indices)))


def test_partial_updates_draw_from_everywhere_and_from_occupied_cells() -> None:
    inputs = samples.occupancy.inputs(resolution=16, cascades=2, uniform=20_000, occupied=20_000, threshold=0.9)
    cells, _ = ops.occupancy_samples(**inputs)
    everywhere, occupied = cells.split(20_000)
    above = inputs["ema"] > 0.9
    assert abs(above[everywhere].float().mean() - above.float().mean()) < 0.01
    # Ten tries miss a tenth of the cells with probability 0.9^10 = 0.35.
    assert abs(above[occupied].float().mean() - (1 - 0.9**10)) < 0.02
    counts = torch.bincount(everywhere, minlength=2 * 16**3).float()
    assert abs(counts.var() / counts.mean() - 1) < 0.1, "not uniform: a Poisson variable's variance is its mean"
    assert abs((everywhere >= 16**3).float().mean() - 0.5) < 0.02


def test_samples_repeat_by_seed() -> None:
    inputs = samples.occupancy.inputs(uniform=500, occupied=500)
    first, again = ops.occupancy_samples(**inputs), ops.occupancy_samples(**inputs)
    other = ops.occupancy_samples(**inputs | {"seed": torch.tensor([1])})
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert (first[0] != other[0]).float().mean() > 0.9 and (first[1] != other[1]).float().mean() > 0.9


def test_an_average_by_hand() -> None:
    ema = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0])
    cells = torch.tensor([1, 2, 2, 4, 1])
    densities = torch.tensor([0.5, 5.0, 7.0, -1.0, 0.25])
    updated = ops.occupancy_update(ema, cells, densities, 0.5)
    # Not sampled: 1 and 4 stay. Sampled twice: decays once, the larger answer counts. A negative answer does not count.
    assert updated.tolist() == [1.0, 1.0, 7.0, 4.0, 0.0]
    assert ema.tolist() == [1.0, 2.0, 3.0, 4.0, 0.0], "the old averages were changed"


@pytest.mark.parametrize("answer", [float("nan"), float("inf"), 1e20])
def test_a_cell_nobody_knows_about_is_occupied_and_forgotten_in_time(answer: float) -> None:
    ema = ops.occupancy_update(torch.zeros(64), torch.tensor([3]), torch.tensor([answer]), 0.95)
    assert ema[3] == 1e10 and ops.occupancy_bits(ema, 0.01)[0][0] == 8
    for _ in range(600):
        ema = ops.occupancy_update(ema, torch.tensor([3]), torch.zeros(1), 0.95)
    assert 0 < ema[3] < 0.01


def test_an_average_that_is_no_number_is_occupied() -> None:
    ema = torch.zeros(16)
    ema[9] = float("nan")
    bits, used = ops.occupancy_bits(ema, 0.01)
    assert bits.tolist() == [0, 2] and used == torch.tensor(0.01)


def test_the_threshold_is_the_smaller_of_the_given_one_and_the_mean() -> None:
    ema = torch.tensor([0.0] * 7 + [0.04])
    bits, used = ops.occupancy_bits(ema, 0.01)
    assert used.tolist() == [torch.tensor(0.005).item()] and bits.tolist() == [128]
    assert ops.occupancy_bits(ema * 100, 0.01)[1] == torch.tensor(0.01)
    assert ops.occupancy_bits(torch.zeros(8), 0.01)[0].tolist() == [0]


CALLS: dict[str, list[Any]] = {
    "occupancy_samples": [
        tuple(samples.occupancy.inputs().values()),
        tuple(samples.occupancy.inputs(uniform=5, occupied=6, cascades=2).values()),
    ],
    "occupancy_update": [(torch.rand(16), torch.tensor([1, 5, 5]), torch.rand(3), 0.9)],
    "occupancy_bits": [(torch.rand(64), 0.01)],
}


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name: str) -> None:
    for arguments in CALLS[name]:
        torch.library.opcheck(getattr(ops, name).default, arguments)
        results, promised = getattr(ops, name)(*arguments), _library.OPERATORS[name].fake(*arguments)
        pairs = zip(results, promised, strict=True) if isinstance(results, tuple) else [(results, promised)]
        for result, promise in pairs:
            assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


def test_every_operator_is_here() -> None:
    assert {name for name in _library.OPERATORS if name.startswith("occupancy")} == set(CALLS)


@needs_extension
@pytest.mark.parametrize("name", CALLS)
def test_nothing_reads_a_value(name: str) -> None:
    with NoSync():
        for arguments in CALLS[name]:
            getattr(ops, name)(*arguments)


@pytest.mark.parametrize("name", CALLS)
def test_a_gradient_is_refused(name: str) -> None:
    for first, *rest in CALLS[name]:
        results = getattr(ops, name)(first.clone().requires_grad_(), *rest)
        result = results if isinstance(results, Tensor) else next(x for x in results if x.is_floating_point())
        with pytest.raises(RuntimeError, match=f"{name}: expected no backward"):
            result.sum().backward()


def test_an_index_that_is_no_cell_is_named() -> None:
    for wrong in (-1, 16):
        with pytest.raises(RuntimeError, match=rf"cells: expected indices from 0 to 15, got {wrong}"):
            ops.occupancy_update(torch.rand(16), torch.tensor([1, wrong]), torch.rand(2), 0.9)


@needs_extension
@pytest.mark.parametrize(
    "change, message",
    [
        ({"ema": torch.zeros(8)}, r"ema: expected shape \[512\], got \[8\]"),
        ({"threshold": torch.zeros(2)}, r"threshold: expected shape \[1\]"),
        ({"seed": torch.zeros(1, dtype=torch.int32)}, "seed: expected int64"),
        ({"uniform": -1}, "uniform: expected at least 0"),
        ({"occupied": -1, "uniform": 2}, "occupied: expected at least 0"),
        ({"resolution": 6}, "resolution: expected a power of two from 4 to 1024, got 6"),
        ({"cascades": 0}, "cascades: expected 1 to 8, got 0"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.occupancy_samples(**samples.occupancy.inputs() | change)


@needs_extension
def test_wrong_averages_are_named() -> None:
    with pytest.raises(RuntimeError, match="occupancy_update: decay: expected 0 to 1"):
        ops.occupancy_update(torch.rand(16), torch.tensor([1]), torch.rand(1), 1.5)
    with pytest.raises(RuntimeError, match=r"occupancy_update: densities: expected shape \[1\], got \[2\]"):
        ops.occupancy_update(torch.rand(16), torch.tensor([1]), torch.rand(2), 0.5)
    with pytest.raises(RuntimeError, match="occupancy_bits: ema: expected a multiple of 8 cells, got 12"):
        ops.occupancy_bits(torch.rand(12), 0.5)
    with pytest.raises(RuntimeError, match="occupancy_bits: threshold: expected at least 0"):
        ops.occupancy_bits(torch.rand(16), -0.5)


@pytest.mark.gpu
@pytest.mark.parametrize("uniform, occupied", [(0, 0), (3000, 0), (3000, 5000)])
def test_the_gpu_has_the_bits_of_the_cpu(uniform: int, occupied: int) -> None:
    inputs = samples.occupancy.inputs(resolution=32, cascades=3, uniform=uniform, occupied=occupied, threshold=0.9)
    on_gpu = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in inputs.items()}
    cells, positions = ops.occupancy_samples(**inputs)
    for ours, wanted in zip(ops.occupancy_samples(**on_gpu), (cells, positions), strict=True):
        assert bitwise_equal(ours.cpu(), wanted)
    densities = torch.rand(len(cells)) * 2
    densities[::17] = float("nan")
    updated = ops.occupancy_update(inputs["ema"], cells, densities, 0.95)
    ours = ops.occupancy_update(on_gpu["ema"], cells.cuda(), densities.cuda(), 0.95)
    assert bitwise_equal(ours.cpu(), updated)
    for a, b in zip(ops.occupancy_bits(ours, 0.01), ops.occupancy_bits(updated, 0.01), strict=True):
        assert bitwise_equal(a.cpu(), b)


@pytest.mark.gpu
def test_an_update_can_be_captured_and_follows_its_seed() -> None:
    inputs = samples.occupancy.inputs(resolution=32, uniform=4000, occupied=4000, device="cuda")

    def update() -> tuple[Tensor, Tensor]:
        cells, positions = ops.occupancy_samples(**inputs)
        return ops.occupancy_bits(ops.occupancy_update(inputs["ema"], cells, positions.norm(dim=-1), 0.9), 0.3)

    update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = update()
    inputs["seed"].fill_(77)
    graph.replay()
    for ours, wanted in zip(captured, update(), strict=True):
        assert torch.equal(ours, wanted)
