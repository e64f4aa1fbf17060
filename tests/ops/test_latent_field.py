"""latent_field: against a network written with torch.nn.functional, gradients against float64 and themselves."""

from __future__ import annotations

import importlib
import itertools
import math
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast import ops, reference
from ldp_fast.ops import _native
from ldp_fast.reference.latent_field import split_weights, to_unit

from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal

assert ops.latent_field

operator = importlib.import_module("ldp_fast.ops.latent_field")
compiled = pytest.mark.skipif(_native.extension() is None, reason="the extension ldp_fast._C was not built")
INPUTS = ("positions", "table", "weights")


def field(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.ldp_fast.latent_field(*arguments)


def backward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.ldp_fast.latent_field_backward(*arguments)


def network(made: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """What follows the encoding [S, E], as one would write it for autograd; exponents have to stay within ±15."""
    hidden, layers, channels, bias, sigmoid, strength, std, _ = made["network"]
    rest = made["weights"]
    widths = [x.shape[1], *[hidden] * layers, 1 + channels]
    for n, (i, o) in enumerate(itertools.pairwise(widths)):
        matrix, rest = rest[: i * o].view(o, i), rest[i * o :]
        offset, rest = (rest[:o], rest[o:]) if bias else (None, rest)
        x = F.linear(x, matrix, offset)
        x = F.relu(x) if n < layers else x
    assert rest.numel() == 0
    blob = strength * torch.exp(-(made["positions"] ** 2).sum(-1) / (2 * std**2))
    return torch.exp(x[:, 0] + blob), torch.sigmoid(x[:, 1:]) if sigmoid else x[:, 1:]


def naive(made: dict[str, Any]) -> tuple[Tensor, Tensor]:
    unit = (made["positions"] + made["bound"]) / (2 * made["bound"])
    return network(made, reference.hash_grid(unit, made["table"], None, None, *made["layout"]))


def gradients(outputs: tuple[Tensor, ...], made: dict[str, Any]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs[:2], [made[n] for n in INPUTS], (made["grad_density"], made["grad_latents"]))


def with_gradients(made: dict[str, Any]) -> dict[str, Any]:
    return made | {name: made[name].detach().clone().requires_grad_() for name in INPUTS}


@pytest.mark.parametrize("name", samples.latent_field.FIELDS)
def test_agrees_with_float64(name: str, poisoned: None) -> None:
    made = samples.latent_field.off_faces(samples.latent_field.inputs(samples.latent_field.FIELDS[name]))
    ours, eager, truth = (with_gradients(m) for m in (made, made, samples.widen(made)))
    result, wanted, exact = field(*samples.latent_field.arguments(ours)), naive(eager), naive(truth)
    for x, e, t, what in zip(result, wanted, exact, ("density", "latents"), strict=False):
        assert_close(x, e, t, factor=OUTPUT, what=what)
    grads = (gradients(r, m) for r, m in ((result, ours), (wanted, eager), (exact, truth)))
    for x, e, t, what in zip(*grads, INPUTS, strict=True):
        assert_close(x, e, t, factor=GRADIENT, what=what)


@compiled
@settings(max_examples=60, deadline=None)
# One channel, whose sums nearly cancel in every sample.
@example(hidden=96, layers=3, channels=1, features=4, levels=2, bias=True, sigmoid=False, size=151, count=None, seed=15)
@given(
    hidden=st.sampled_from(range(16, 129, 16)),
    layers=st.integers(1, 4),
    channels=st.integers(1, 15),
    features=st.sampled_from([1, 2, 3, 4, 8]),
    levels=st.integers(1, 16),
    bias=st.booleans(),
    sigmoid=st.booleans(),
    # Not just a few: the textbook code's error on one sample may be next to none by luck, over many it is not.
    size=st.just(0) | st.integers(40, 200),
    count=st.none() | st.just(0) | st.integers(40, 220),
    seed=st.integers(0, 99),
)
def test_the_extension_agrees_with_the_reference(
    hidden, layers, channels, features, levels, bias, sigmoid, size, count, seed
) -> None:
    grid = samples.hash_grid.Grid(n_levels=levels, n_features=features, growth=1.2)
    shape = samples.latent_field.Field(grid, hidden, layers, channels, bias, sigmoid)
    made = samples.latent_field.inputs(shape, size, seed=seed, count=count)
    result = field(*samples.latent_field.arguments(made))
    # The same encodings for all: what differs then is the network.
    live = size if count is None else min(size, count)
    eager, truth = (network(m, result[2].to(m["weights"].dtype)) for m in (made, samples.widen(made)))
    grads = backward(*samples.latent_field.backward_arguments(made, result[2]))
    eager_grads, true_grads = (
        reference.latent_field_backward(*samples.latent_field.backward_arguments(m, result[2].to(m["weights"].dtype)))
        for m in (made, samples.widen(made))
    )
    of_sums = (1.0, last_layer_cancellation(made, result[2][:live], shape))
    for x, e, t, condition in zip(result, eager, truth, of_sums, strict=False):
        assert_close(x[:live], e[:live], t[:live], factor=OUTPUT, condition=condition)
        assert x[live:].eq(0).all()
    # A unit whose sum is nearly 0 may be on in one arithmetic and off in another.
    margin = nearest_to_a_kink(made, result[2], shape)
    conditions = (1.0, cancellation(made, result[2], true_grads[1]), 1.0)
    for x, e, t, condition in zip(grads, eager_grads, true_grads, conditions, strict=True):
        if margin > 1e-6:
            assert_close(x, e, t, factor=GRADIENT, condition=condition)


def last_layer_cancellation(made: dict[str, Any], encoding: Tensor, shape: samples.latent_field.Field) -> float:
    """Size of the terms of the latents' sums over the size of the largest latent, in float64."""
    x = encoding.double()
    net = split_weights(made["weights"].double(), x.shape[1], *made["network"][:4])
    for matrix, offset in net[:-1]:
        x = F.linear(x, matrix, offset).relu()
    matrix, offset = net[-1]
    terms = F.linear(x, matrix.abs(), None if offset is None else offset.abs())[:, 1:]
    latents = F.linear(x, matrix, offset)[:, 1:]
    return float(terms.max() / latents.abs().max()) if latents.any() and not shape.sigmoid else 1.0


def cancellation(made: dict[str, Any], encoding: Tensor, truth: Tensor) -> float:
    """Size of the samples' terms in the weights' gradient over the size of their sum, in float64."""
    each = samples.latent_field.backward_arguments(samples.widen(made), encoding.double())
    live = len(encoding) if each[5] is None else min(int(each[5]), len(encoding))
    terms = torch.zeros_like(truth)
    for s in range(live):
        rows = (*(a[s : s + 1] for a in each[:4]), each[4], None, *each[6:])
        terms += reference.latent_field_backward(*rows)[1].abs()
    return float(terms.max() / truth.abs().max()) if truth.any() else 1.0


def nearest_to_a_kink(made: dict[str, Any], encoding: Tensor, shape: samples.latent_field.Field) -> float:
    """The smallest |sum| that a ReLU sees, in float64."""
    x, nearest = encoding.double(), math.inf
    net = split_weights(made["weights"].double(), x.shape[1], *made["network"][:4])
    for matrix, offset in net[:-1]:
        x = F.linear(x, matrix, offset)
        nearest = min(nearest, float(x[x != 0].abs().min()) if x.any() else math.inf)
        x = x.relu()
    return nearest


@pytest.mark.parametrize("name", ["rgb", "latent_nerf", "one_channel"])
def test_gradcheck(name: str) -> None:
    shape = samples.latent_field.FIELDS[name]
    small = samples.latent_field.Field(
        samples.hash_grid.Grid(2, 2, 4, 3),
        16,
        min(shape.layers, 2),
        shape.channels,
        shape.bias,
        shape.sigmoid,
        2.0,
        0.5,
        1.5,
    )
    made = with_gradients(
        samples.latent_field.off_faces(samples.latent_field.inputs(small, 6, dtype=torch.float64, count=5))
    )
    rest = samples.latent_field.arguments(made)

    def function(positions: Tensor, table: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        return field(positions, table, None, weights, *rest[4:])[:2]

    # By a random combination of all entries where the other two, one by one, say which entry it is.
    torch.autograd.gradcheck(function, tuple(made[n] for n in INPUTS), fast_mode=name == "latent_nerf")


@pytest.mark.parametrize("half", [False, True])
def test_opcheck(half: bool) -> None:
    made = with_gradients(samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], 20, count=17))
    torch.library.opcheck(torch.ops.ldp_fast.latent_field.default, samples.latent_field.arguments(made, half))
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], 20, count=17)
    encoding = field(*samples.latent_field.arguments(made, half))[2]
    torch.library.opcheck(
        torch.ops.ldp_fast.latent_field_backward.default, samples.latent_field.backward_arguments(made, encoding, half)
    )


def test_the_exponential_is_truncated() -> None:
    made = samples.latent_field.inputs(samples.latent_field.Field(blob_strength=0.0, bias=True), 4)
    for exponent in (-200.0, -15.0, 0.0, 15.0, 79.0, 81.0, 1e5):
        made["weights"].zero_()
        made["weights"][-5] = exponent
        density, _, encoding = field(*samples.latent_field.arguments(made))
        assert torch.allclose(density, torch.tensor(min(exponent, 80.0)).exp()) and density.isfinite().all()
        slope = math.exp(max(-15.0, min(15.0, exponent)))
        grad_bias = backward(*samples.latent_field.backward_arguments(made, encoding))[1][-5]
        assert torch.allclose(grad_bias, made["grad_density"].sum() * slope, rtol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 63, 64, 100, 149, 150, 999])
def test_padding_is_zero_and_contributes_nothing(count: int, poisoned: None) -> None:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], count=count)
    live = min(count, 150)
    for name in ("positions", "grad_density", "grad_latents"):
        made[name][live:] = math.nan
    outputs = field(*samples.latent_field.arguments(made))
    grads = backward(*samples.latent_field.backward_arguments(made, outputs[2]))
    assert all(t[live:].eq(0).all() for t in (*outputs, grads[0], grads[2]))
    short = made | {n: made[n][:live] for n in ("positions", "grad_density", "grad_latents")} | {"count": None}
    alone = field(*samples.latent_field.arguments(short))
    assert all(bitwise_equal(x[:live], y) for x, y in zip(outputs, alone, strict=True))
    alone_grads = backward(*samples.latent_field.backward_arguments(short, alone[2]))
    assert bitwise_equal(grads[0][:live], alone_grads[0]) and bitwise_equal(grads[1], alone_grads[1])


def test_nan_stays_in_its_row_and_reaches_the_weights() -> None:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["default"])
    made["positions"][70] = math.nan
    density, latents, encoding = field(*samples.latent_field.arguments(made))
    rows = torch.arange(len(density)) == 70
    assert density.isnan().eq(rows).all() and latents.isnan().eq(rows[:, None]).all()
    grad_encoding, grad_weights, _ = backward(*samples.latent_field.backward_arguments(made, encoding))
    assert grad_encoding[~rows].isfinite().all() and grad_encoding[70].isnan().any() and grad_weights.isnan().any()


@compiled
@pytest.mark.parametrize("size", [1, 64, 5000])
def test_any_number_of_threads_gives_the_same_bits(size: int) -> None:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], size)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            outputs = field(*samples.latent_field.arguments(made))
            results.append((*outputs, *backward(*samples.latent_field.backward_arguments(made, outputs[2]))))
    finally:
        torch.set_num_threads(before)
    assert all(bitwise_equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("wanted", [("positions",), ("table",), ("weights",), ("table", "weights")])
def test_only_what_is_asked_for_is_computed(wanted: tuple[str, ...]) -> None:
    class Record(TorchDispatchMode):
        names: list[str]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.name().removeprefix("ldp_fast::"))
            return func(*args, **(kwargs or {}))

    made = samples.latent_field.inputs(samples.latent_field.FIELDS["default"], 10)
    for name in wanted:
        made[name].requires_grad_()
    density, latents, _ = field(*samples.latent_field.arguments(made))
    with Record() as record:
        record.names = []
        (density.sum() + latents.sum()).backward()
    assert ("hash_grid_backward_table" in record.names) == ("table" in wanted)
    assert ("hash_grid_backward_positions" in record.names) == ("positions" in wanted)
    assert all((made[name].grad is not None) == (name in wanted) for name in INPUTS)


@pytest.mark.parametrize("name", ["reference", "backward"])
def test_coordinates_are_divided_and_not_multiplied(name: str) -> None:
    """torch's CUDA division by a number is a product with its inverse, which the kernels' division is not."""

    class Record(TorchDispatchMode):
        divisors: list[Any]

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.div.Tensor and isinstance(args[0], Tensor) and args[0].shape == (10, 3):
                self.divisors.append(args[1])
            return func(*args, **(kwargs or {}))

    made = samples.latent_field.inputs(samples.latent_field.FIELDS["default"], 10)
    made["table"].requires_grad_()
    density, *_ = field(*samples.latent_field.arguments(made))
    with Record() as record:
        record.divisors = []
        if name == "backward":
            density.sum().backward()
        else:
            reference.latent_field(*samples.latent_field.arguments(made))
    assert record.divisors and all(isinstance(divisor, Tensor) for divisor in record.divisors)


@pytest.mark.gpu
@pytest.mark.parametrize("bound", [1.5, 0.3])
def test_a_gpu_finds_the_same_cells(bound: float) -> None:
    positions = (torch.rand(100_000, 3) * 2 - 1) * bound
    assert bitwise_equal(to_unit(positions.cuda(), bound).cpu(), to_unit(positions, bound))


def test_half_products_on_a_cpu_are_the_reference() -> None:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"])
    result, exact = (
        field(*samples.latent_field.arguments(made, half=True)),
        field(*samples.latent_field.arguments(made)),
    )
    assert result[2].dtype == torch.float16 and torch.allclose(result[2].float(), exact[2], rtol=1e-3, atol=1e-6)
    for x, y in zip(result, reference.latent_field(*samples.latent_field.arguments(made, half=True)), strict=True):
        assert bitwise_equal(x, y)
    assert not torch.equal(result[1], exact[1]) and torch.allclose(result[1], exact[1], atol=5e-3)
    grads = backward(*samples.latent_field.backward_arguments(made, result[2], half=True))
    for x, y in zip(grads, backward(*samples.latent_field.backward_arguments(made, exact[2])), strict=True):
        assert (x - y).norm() < 1e-2 * y.norm()


@compiled
@pytest.mark.parametrize(
    "position, value, message",
    [
        (3, torch.zeros(7), "weights: expected shape \\[7365\\], got \\[7\\]"),
        (0, torch.zeros(4, 2), "positions: expected shape \\[4, 3\\], got \\[4, 2\\]"),
        (11, 0.0, "bound: expected a number above 0"),
        (12, 20, "hidden: expected a multiple of 16 from 16 to 128, got 20"),
        (13, 5, "layers: expected 1 to 4, got 5"),
        (14, 16, "channels: expected 1 to 15, got 16"),
        (18, 0.0, "blob_std: expected a number above 0"),
    ],
)
def test_wrong_arguments_are_named(position: int, value: Any, message: str) -> None:
    arguments = list(
        samples.latent_field.arguments(
            samples.latent_field.inputs(
                samples.latent_field.Field(samples.hash_grid.Grid(n_levels=16, growth=1.2), bias=True)
            )
        )
    )
    arguments[position] = value
    message = message.replace(
        "7365", str(samples.latent_field.Field(samples.hash_grid.Grid(n_levels=16), bias=True).n_weights)
    )
    with pytest.raises(RuntimeError, match=f"latent_field: {message}"):
        field(*arguments)


def test_the_backward_is_differentiated_elsewhere() -> None:
    made = with_gradients(samples.latent_field.inputs(samples.latent_field.FIELDS["default"], 4))
    (grad,) = torch.autograd.grad(
        field(*samples.latent_field.arguments(made))[0].sum(), made["weights"], create_graph=True
    )
    with pytest.raises(RuntimeError, match="latent_field can be differentiated once"):
        grad.sum().backward()


def check_against_float64(made: dict[str, Any], half: bool) -> None:
    """Compares latents, density and every gradient with float64, by the rule; in half with the reference in half."""
    result = field(*samples.latent_field.arguments(made, half))
    grads = backward(*samples.latent_field.backward_arguments(made, result[2], half))
    eager, truth = (
        reference.latent_field(*samples.latent_field.arguments(m, half)) for m in (made, samples.widen(made))
    )
    for x, e, t in zip(result[:2], eager[:2], truth[:2], strict=True):
        assert_close(x, e, t, factor=OUTPUT) if not half else torch.testing.assert_close(x, e, rtol=4e-3, atol=4e-3)
    rest = (
        samples.latent_field.backward_arguments(made, result[2], half),
        samples.latent_field.backward_arguments(samples.widen(made), result[2].double(), half),
    )
    for x, e, t in zip(grads, *(reference.latent_field_backward(*r) for r in rest), strict=True):
        if half:
            assert (x - e).norm() <= 4e-3 * e.norm()
        else:
            assert_close(x, e, t, factor=GRADIENT)


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", samples.latent_field.FIELDS)
def test_a_gpu_agrees_with_float64(name: str, half: bool, poisoned: None) -> None:
    check_against_float64(
        samples.latent_field.off_faces(
            samples.latent_field.inputs(samples.latent_field.FIELDS[name], 1000, device="cuda", count=990)
        ),
        half,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("half", [False, True])
def test_a_gpu_gives_the_same_bits_every_time(half: bool) -> None:
    made = samples.latent_field.inputs(samples.latent_field.FIELDS["latent_nerf"], 50_000, device="cuda")
    encoding = field(*samples.latent_field.arguments(made, half))[2]
    first = backward(*samples.latent_field.backward_arguments(made, encoding, half))
    for _ in range(10):
        again = backward(*samples.latent_field.backward_arguments(made, encoding, half))
        assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
def test_a_captured_graph_follows_its_inputs() -> None:
    made, other = (
        samples.latent_field.inputs(samples.latent_field.FIELDS["default"], 5000, device="cuda", seed=seed, count=n)
        for seed, n in ((0, 4000), (1, 50))
    )
    wanted = field(*samples.latent_field.arguments(other))
    wanted = (*wanted, *backward(*samples.latent_field.backward_arguments(other, wanted[2])))
    field(*samples.latent_field.arguments(made))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = field(*samples.latent_field.arguments(made))
        result = (*result, *backward(*samples.latent_field.backward_arguments(made, result[2])))
    for name, value in other.items():
        if isinstance(value, Tensor):
            made[name].copy_(value)
    graph.replay()
    assert all(bitwise_equal(a, b) for a, b in zip(result, wanted, strict=True))


def test_the_workspace_on_a_gpu_is_what_the_extension_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    module = SimpleNamespace(latent_field_workspace=lambda *arguments: asked.append(arguments) or 7)
    monkeypatch.setattr(_native, "required", lambda what: module)
    monkeypatch.setattr(torch.cuda, "device", lambda device: (asked.append(device), nullcontext())[1])
    positions: Any = SimpleNamespace(device=torch.device("cuda", 1), shape=(100, 3), new_empty=torch.empty)
    network = samples.latent_field.Field(hidden=64, layers=2, channels=4, bias=True).network()
    for backward in (False, True):
        workspace = operator._workspace(positions, backward, 32, network)
        assert workspace is not None and workspace.shape == (7,)
        assert asked[-2:] == [positions.device, (32, 64, 2, 4, True, 100, backward)]
    assert operator._workspace(torch.zeros(100, 3), True, 32, network) is None
