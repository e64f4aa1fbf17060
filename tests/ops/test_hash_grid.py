"""hash_grid: against an encoding written from the definition, and its gradients against float64 and themselves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast import ops, reference
from ldp_fast.ops import _native
from ldp_fast.reference.hash_grid import HASHED, TILED, WRAPPED

from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal, guarded

assert ops.hash_grid

NAMES = (
    "hash_grid",
    "hash_grid_backward_table",
    "hash_grid_backward_positions",
    "hash_grid_backward_positions_backward",
)
NATIVE = NAMES[:3]

compiled = pytest.mark.skipif(_native.extension() is None, reason="the extension ldp_fast._C was not built")


def op(name: str) -> Any:
    return getattr(torch.ops.ldp_fast, name)


def naive(positions: np.ndarray, table: np.ndarray, grid: samples.hash_grid.Grid) -> np.ndarray:
    """The encoding as the papers and tiny-cuda-nn's documentation define it, one sample at a time, in float64."""
    out = np.zeros((len(positions), grid.n_levels * table.shape[1]))
    first, size_of_table = 0, 2**grid.log2_table_size
    for level in range(grid.n_levels):
        scale = float(np.float32(grid.base_resolution * grid.growth**level - 1.0))
        resolution = math.ceil(scale) + 1
        most = grid.base_resolution**3 if grid.indexing == TILED else size_of_table
        size = min(-(-(resolution**3) // 8) * 8, most)
        for s, position in enumerate(positions):
            place = position * scale + 0.5
            corner = np.floor(place)
            t = place - corner
            if grid.smoothstep:
                t = 3 * t**2 - 2 * t**3
            for offset in itertools.product((0, 1), repeat=3):
                x, y, z = (int(c) + o for c, o in zip(corner, offset, strict=True))
                weight = np.prod([w if o else 1 - w for w, o in zip(t, offset, strict=True)])
                if resolution**3 <= size or grid.indexing == TILED:
                    entry = (x + y * resolution + z * resolution**2) % 2**32
                elif grid.indexing == WRAPPED:
                    entry = x
                    if resolution <= size:
                        entry += y * resolution
                    if resolution**2 <= size:
                        entry += z * resolution**2
                else:
                    entry = (x ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)) % 2**32
                columns = slice(level * table.shape[1], (level + 1) * table.shape[1])
                out[s, columns] += weight * table[first + entry % size]
        first += size
    assert first == len(table)
    return out


def encode(made: dict[str, Any], name: str = "ops") -> Tensor:
    function = torch.ops.ldp_fast.hash_grid if name == "ops" else reference.hash_grid
    return function(made["positions"], made["table"], None, made["count"], *made["layout"])


def by_table(made: dict[str, Any], name: str = "ops") -> Tensor:
    function = torch.ops.ldp_fast.hash_grid_backward_table if name == "ops" else reference.hash_grid_backward_table
    shape = made["table"].shape
    return function(made["grad"], made["positions"], made["count"], *shape, *made["layout"], False)


def by_positions(made: dict[str, Any], name: str = "ops") -> Tensor:
    namespace = torch.ops.ldp_fast if name == "ops" else reference
    function = namespace.hash_grid_backward_positions
    return function(made["grad"], made["positions"], made["table"], None, made["count"], *made["layout"])


def check_table(made: dict[str, Any]) -> None:
    """Asserts the table's gradient, an entry's sum of up to S terms of either sign: what cancels counts."""
    wide = samples.widen(made)
    truth, terms = by_table(wide), by_table(wide | {"grad": wide["grad"].abs()})
    condition = float(terms.max() / truth.abs().max().clamp(min=1e-300)) if truth.any() else 1.0
    ours, eager = by_table(made), by_table(made, "reference")
    assert_close(ours, eager, truth, factor=GRADIENT, what="table", condition=condition)


def off_faces(made: dict[str, Any], margin: float = 1e-3) -> dict[str, Any]:
    """Leaves out samples near a face between cells: rounding may put them on either side, and the slope jumps there."""
    scales = torch.tensor(made["layout"].scales, device=made["positions"].device)
    at = made["positions"][:, None].double() * scales[:, None] + made["layout"].shift
    keep = ((at - at.round()).abs() > margin).all(-1).all(-1)
    return made | {"positions": made["positions"][keep].contiguous(), "grad": made["grad"][keep].contiguous()}


@pytest.mark.parametrize("name", [n for n in samples.hash_grid.GRIDS if n != "voxels"])
def test_the_encoding_is_the_one_of_the_definition(name: str) -> None:
    grid = samples.hash_grid.GRIDS[name]
    made = samples.hash_grid.inputs(grid, 23, dtype=torch.float64)
    wanted = naive(made["positions"].numpy(), made["table"].numpy(), grid)
    assert np.allclose(encode(made).numpy(), wanted, rtol=1e-12, atol=1e-14)


def test_a_voxel_grid_is_trilinear_interpolation_with_aligned_corners() -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["voxels"], 50, dtype=torch.float64)
    made["positions"][:4] = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0.5], [0.2, 0.4, 0.6]])
    volume = made["table"].view(6, 6, 6, 5).permute(3, 0, 1, 2)[None]  # x is the innermost
    wanted = torch.nn.functional.grid_sample(
        volume, 2 * made["positions"][None, None, None] - 1, align_corners=True, mode="bilinear"
    )
    assert torch.allclose(encode(made), wanted[0, :, 0, 0].T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", samples.hash_grid.GRIDS)
@pytest.mark.parametrize("size", [1, 37, 300])
def test_agrees_with_float64(name: str, size: int, poisoned: None) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], size, rays=size == 300)
    assert_close(encode(made), encode(made, "reference"), encode(samples.widen(made)), factor=OUTPUT, what="encoding")
    check_table(made)
    made = off_faces(made)
    truth = by_positions(samples.widen(made))
    assert_close(by_positions(made), by_positions(made, "reference"), truth, factor=GRADIENT, what="positions")


@pytest.mark.parametrize("name", ["hashed", "smoothstep", "wrapped", "tiled", "three_features", "voxels"])
def test_gradients_of_every_order_in_float64(name: str) -> None:
    grid = samples.hash_grid.GRIDS[name]
    made = off_faces(samples.hash_grid.inputs(grid, 9, dtype=torch.float64))
    inputs = made["positions"].requires_grad_(), made["table"].requires_grad_()

    def function(positions: Tensor, table: Tensor) -> Tensor:
        return torch.ops.ldp_fast.hash_grid(positions, table, None, None, *made["layout"])

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["hashed", "smoothstep"])
def test_the_written_gradients_are_those_of_autograd(name: str) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 25, dtype=torch.float64, count=20)
    x, table, g = (made[key].requires_grad_() for key in ("positions", "table", "grad"))
    wanted = torch.autograd.grad(encode(made, "reference"), (x, table), g, create_graph=True)
    assert torch.allclose(by_positions(made), wanted[0]) and torch.allclose(by_table(made), wanted[1])
    v = torch.randn_like(x)
    second = torch.autograd.grad(wanted[0], (g, x, table), v)
    written = reference.hash_grid_backward_positions_backward(
        v, g.detach(), x.detach(), table.detach(), None, made["count"], *made["layout"]
    )
    for a, b in zip(written, second, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@compiled
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", ["hashed", "smoothstep", "voxels"])
def test_opcheck(name: str, grid: str) -> None:
    torch.library.opcheck(op(name).default, samples.hash_grid.arguments(name, samples.hash_grid.GRIDS[grid], count=30))


@compiled
@pytest.mark.parametrize("name", NAMES)
def test_shape_functions_promise_the_real_results(name: str) -> None:
    for dtype in (torch.float32, torch.float64):
        given_ = samples.hash_grid.arguments(name, samples.hash_grid.GRIDS["four_features"], dtype=dtype)
        real, promised = op(name)(*given_), ops._library.OPERATORS[name].fake(*given_)
        for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (real, promised)), strict=True):
            assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.parametrize("count", [0, 1, 20, 37, 99])
def test_padding_is_zero_and_adds_nothing(count: int, poisoned: None) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["hashed"], 37, count=count)
    made["positions"][count:], made["grad"][count:] = float("nan"), float("nan")
    live = {**made, "positions": made["positions"][:count], "grad": made["grad"][:count], "count": None}
    for function in (encode, by_positions):
        result = function(made)
        assert bitwise_equal(result[:count], function(live)) and not result[count:].any()
    assert bitwise_equal(by_table(made), by_table(live))


def test_no_samples() -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["hashed"], 0)
    assert encode(made).shape == (0, 8) and by_positions(made).shape == (0, 3)
    assert not by_table(made).any()


@pytest.mark.parametrize("name", ["hashed", "wrapped", "tiled", "tiled_in_27", "dense", "voxels", "one_level"])
def test_positions_outside_are_never_out_of_bounds(name: str) -> None:
    """Far away, infinite and NaN positions read some entry of the level, the same one here and in the reference."""
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 64)
    edge = torch.tensor([-1e30, -3e9, -1.0, -1e-7, 0.0, 1.0, 1.25, 3e9, 1e30, math.inf, -math.inf, math.nan])
    made["positions"][: len(edge)] = edge[:, None]
    made["positions"][12:40] = 8 * made["positions"][12:40] - 4
    made["grad"][9:12] = 0
    assert torch.allclose(encode(made), encode(made, "reference"), rtol=1e-4, atol=1e-4, equal_nan=True)
    assert torch.allclose(by_table(made), by_table(made, "reference"), rtol=1e-4, atol=1e-3)
    assert by_positions(made)[:9].isfinite().all()


@compiled
@pytest.mark.parametrize("name", samples.hash_grid.GRIDS)
def test_the_same_bits_with_any_number_of_threads(name: str) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 5000, rays=True)
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2, 3, 7):
            torch.set_num_threads(n)
            results.append((encode(made), by_table(made), by_positions(made)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(bitwise_equal(a, b) for a, b in zip(results[0], other, strict=True))


@compiled
@pytest.mark.parametrize("name", ["hashed", "three_features"])
def test_native_writes_its_output_and_nothing_else(name: str) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS[name], 37, count=30)
    positions, table, grad, count, layout = (made[k] for k in ("positions", "table", "grad", "count", "layout"))
    calls = {
        "hash_grid": (grad.shape, (positions, table, None, count)),
        "hash_grid_backward_table": (table.shape, (None, grad, positions, count)),
        "hash_grid_backward_positions": (positions.shape, (grad, positions, table, None, count)),
    }
    for function, (shape, rest) in calls.items():
        out, check = guarded(tuple(shape), torch.float32, "cpu")
        _native.function(function)(out, *rest, *layout)
        check()


@compiled
def test_the_layout_of_instant_ngp() -> None:
    """Sixteen levels from 16 to 2048 with 2¹⁹ entries: the numbers are those tiny-cuda-nn prints."""
    growth = math.exp(math.log(2048 / 16) / 15)
    layout = _native.required("HashGridLayout").HashGridLayout(16, 19, 16, growth)
    assert layout.offsets[-1] == 6_098_120 and layout.offsets[-1] * 2 == 12_196_240
    finest = layout.resolutions[-1]
    assert layout.resolutions[:-1] == [16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562, 777, 1073, 1483]
    assert finest == 2048
    assert layout.dense == [True] * 5 + [False] * 11


@compiled
@pytest.mark.parametrize("name", [n for n in samples.hash_grid.GRIDS if n != "voxels"])
def test_the_layout_in_cpp_is_the_one_of_the_definition(name: str) -> None:
    grid = samples.hash_grid.GRIDS[name]
    layout = _native.required("HashGridLayout").HashGridLayout(
        grid.n_levels, grid.log2_table_size, grid.base_resolution, grid.growth, grid.indexing == TILED
    )
    offsets, resolutions, scales, *_ = grid.layout()
    assert (layout.offsets, layout.resolutions) == (offsets, resolutions)
    assert np.allclose(layout.scales, scales, rtol=1e-5)


def test_a_third_derivative_is_an_error() -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["smoothstep"], 5, dtype=torch.float64)
    x = made["positions"].requires_grad_()
    (first,) = torch.autograd.grad(encode(made).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once, not twice"):
        torch.autograd.grad(second.sum(), x)


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_makes_no_tensors_of_python_numbers(name: str) -> None:
    """On CUDA each would be a copy that waits for the stream; the double backward runs the reference there."""

    class Record(TorchDispatchMode):
        names: list[str]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.name())
            return func(*args, **(kwargs or {}))

    for grid in ("smoothstep", "voxels"):
        given = samples.hash_grid.arguments(name, samples.hash_grid.GRIDS[grid], count=20)
        with Record() as record, torch.no_grad():
            record.names = []
            getattr(reference, name)(*given)
        assert "aten::arange" in record.names
        assert "aten::lift_fresh" not in record.names  # of torch.tensor


def test_only_the_gradients_asked_for() -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["hashed"])
    made["table"].requires_grad_()
    encode(made).sum().backward()
    assert made["table"].grad is not None and made["positions"].grad is None


@compiled
@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": torch.zeros(37, 2)}, r"positions: expected shape \[37, 3\], got \[37, 2\]"),
        ({"positions": torch.zeros(3, 37).T}, "positions: expected a contiguous tensor"),
        ({"table": torch.zeros(7, 2)}, "offsets: expected the 7 entries of the table as the last"),
        ({"table": torch.zeros(1536 + 64 + 40, 17)}, "expected"),
        ({"count": torch.zeros(1, dtype=torch.int32)}, "count: expected int64"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    made = samples.hash_grid.inputs(samples.hash_grid.GRIDS["hashed"])
    with pytest.raises(RuntimeError, match=f"hash_grid: .*{message}" if message == "expected" else message):
        encode(made | change)


@given(
    levels=st.integers(1, 6),
    features=st.integers(1, 9),
    log2_table=st.integers(3, 12),
    base=st.integers(2, 40),
    growth=st.floats(1.0, 2.5),
    indexing=st.sampled_from([WRAPPED, HASHED, TILED]),
    smoothstep=st.booleans(),
    size=st.integers(0, 300),
    seed=st.integers(0, 1000),
)
@example(levels=1, features=1, log2_table=3, base=2, growth=1.0, indexing=WRAPPED, smoothstep=False, size=243, seed=846)
@settings(deadline=None, max_examples=40)
def test_any_layout(levels, features, log2_table, base, growth, indexing, smoothstep, size, seed) -> None:
    grid = samples.hash_grid.Grid(levels, features, log2_table, base, growth, 0.5, indexing, smoothstep)
    made = samples.hash_grid.inputs(grid, size, seed=seed)
    assert_close(encode(made), encode(made, "reference"), encode(samples.widen(made)), factor=OUTPUT, what="encoding")
    check_table(made)
    made = off_faces(made)
    truth = by_positions(samples.widen(made))
    assert_close(by_positions(made), by_positions(made, "reference"), truth, factor=GRADIENT, what="positions")
