"""Feature matching in PyTorch's machinery: what is saved, compile, checkpoint, autocast, scaler, second derivatives."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ldp_fast.losses.feature_matching import FeatureMatchingLoss, feature_matching_loss
from ldp_fast.reference import feature_matching as reference
from tests.support import samples

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Recorder(TorchDispatchMode):
    """Notes which operators run, and refuses those that read a value back from the device."""

    forbidden = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.outputs: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = str(func)
        assert not any(word in name for word in self.forbidden), f"{name} waits for the device"
        self.names.append(name)
        result = func(*args, **(kwargs or {}))
        self.outputs[name] = len(result) if isinstance(result, (list, tuple)) else 1
        return result


def test_halves_are_read_in_place() -> None:
    halves = samples.feature_matching.halves(*samples.feature_matching.inputs().values())
    with Recorder() as recorder:
        loss = feature_matching_loss(halves, None)
        loss.backward()
    assert not any("cat" in name or "clone" in name for name in recorder.names)


@pytest.mark.parametrize("wanted", ["features", "features_prime", "one level"])
def test_only_wanted_gradients(wanted: str) -> None:
    lists = tuple(samples.feature_matching.inputs().values())
    truth = torch.autograd.grad(reference.feature_matching_loss(*lists), lists[0] + lists[1])
    keep = {"features": [0, 1, 2], "features_prime": [3, 4, 5], "one level": [1]}[wanted]
    leaves = [x.detach().requires_grad_(i in keep) for i, x in enumerate(lists[0] + lists[1])]
    with Recorder() as recorder:
        feature_matching_loss(leaves[:3], leaves[3:]).backward()
    for i, (x, expected) in enumerate(zip(leaves, truth, strict=True)):
        assert (x.grad is not None) == (i in keep)
        assert x.grad is None or torch.allclose(x.grad, expected)
    assert recorder.outputs["ldp_fast.feature_matching_backward.default"] == 3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_only_packed_signs_are_saved(dtype: torch.dtype) -> None:
    saved: list[Tensor] = []
    leaves = tuple(samples.feature_matching.inputs(dtype=dtype, layout="channels_last").values())
    features, features_prime = [x * 1 for x in leaves[0]], [x * 1 for x in leaves[1]]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        loss = feature_matching_loss(features, features_prime)
    blocks = sum(2 * math.ceil(math.prod(shape) / reference.BLOCK) for shape in samples.feature_matching.SMALL)
    assert [x.numel() * x.element_size() for x in saved] == [blocks * reference.BLOCK // 4]
    alive = [weakref.ref(x) for x in features + features_prime]
    del features, features_prime
    gc.collect()
    assert not any(x() is not None for x in alive)
    loss.backward()
    assert all(x.grad is not None for x in leaves[0] + leaves[1])


def test_nothing_is_saved_without_a_gradient() -> None:
    lists = tuple(samples.feature_matching.inputs(requires_grad=False).values())
    rows = [[x.flatten(1) for x in entries] for entries in lists]
    assert torch.ops.ldp_fast.feature_matching(*rows, "mean", "mean", "propagate", False)[3].numel() == 0
    assert not feature_matching_loss(*lists).requires_grad


@pytest.mark.parametrize("nonfinite", ["propagate", "zero"])
def test_no_host_synchronisation(nonfinite: str) -> None:
    lists = tuple(samples.feature_matching.inputs(layout="channels_last", layout_prime="strided").values())
    with Recorder() as recorder:
        loss, _ = feature_matching_loss(*lists, nonfinite=nonfinite, return_statistics=True)
        loss.backward()
    assert sum(name.startswith("ldp_fast.") for name in recorder.names) == 2


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("save_signs", [False, True])
def test_opcheck(save_signs: bool, halves: bool) -> None:
    lists = tuple(samples.feature_matching.inputs(((3, 5, 7), (32, 16, 17)), requires_grad=False).values())
    rows = [[x.flatten(1).requires_grad_(save_signs) for x in entries] for entries in lists]
    arguments = (rows[0], [] if halves else rows[1], "mean", "sum", "zero", save_signs)
    torch.library.opcheck(torch.ops.ldp_fast.feature_matching, arguments)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_opcheck_backward(needs: tuple[bool, bool]) -> None:
    rows = [[x.flatten(1).detach() for x in entries] for entries in samples.feature_matching.inputs().values()]
    signs = torch.ops.ldp_fast.feature_matching(*rows, "mean", "sum", "propagate", True)[3]
    sizes = [x.shape[1] for x in rows[0]]
    arguments = (torch.ones(()), signs, sizes, 2, torch.float32, "mean", "sum", False, *needs)
    torch.library.opcheck(torch.ops.ldp_fast.feature_matching_backward, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_a_graph_break(dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(feature_matching_loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for batch in (2, 3):
        lists = tuple(
            samples.feature_matching.inputs(((3, 5, 7), (16, 8, 8)), batch=batch, layout="channels_last").values()
        )
        halves = samples.feature_matching.halves(*lists)
        for arguments, leaves in ((lists, lists[0] + lists[1]), ((halves, None), halves)):
            eager, statistics = feature_matching_loss(*arguments, return_statistics=True)
            loss, statistics_compiled = compiled(*arguments, return_statistics=True)
            assert torch.equal(loss, eager) and torch.equal(statistics[0], statistics_compiled[0])
            grads, expected = torch.autograd.grad(loss, leaves), torch.autograd.grad(eager, leaves)
            for a, b in zip(grads, expected, strict=True):
                assert torch.equal(a, b) and a.stride() == b.stride()


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_checkpoint(reentrant: bool) -> None:
    v = torch.randn(2, 4, 6, 6, requires_grad=True)
    y = [torch.randn(2, 4, 6, 6), torch.randn(2, 4, 6, 6)]

    def loss(x: Tensor) -> Tensor:
        result = feature_matching_loss([x.sin(), x.exp()], y)
        assert isinstance(result, Tensor)
        return result

    (expected,) = torch.autograd.grad(loss(v), v)
    checkpoint(loss, v, use_reentrant=reentrant).backward()
    assert v.grad is not None and torch.equal(v.grad, expected)


def test_under_autocast() -> None:
    lists = tuple(samples.feature_matching.inputs().values())
    plain = feature_matching_loss(*lists)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = feature_matching_loss(*lists)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, plain)
    grads = [torch.autograd.grad(loss, lists[0] + lists[1]) for loss in (plain, mixed)]
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_under_a_grad_scaler() -> None:
    weight = torch.nn.Parameter(torch.randn(1, 4, 8, 8))
    target = torch.randn(1, 4, 8, 8).half()
    optimiser = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def step(factor: float) -> None:
        optimiser.zero_grad()
        scaler.scale(feature_matching_loss([weight.half() * factor], [target])).backward()
        scaler.step(optimiser)
        scaler.update()

    before = weight.detach().clone()
    step(1.0)
    torch.testing.assert_close(
        before - weight.detach(), (before.half() - target).sign().float() / 256, rtol=0, atol=1e-6
    )
    before = weight.detach().clone()
    step(float("nan"))
    assert torch.equal(weight.detach(), before) and scaler.get_scale() == 2.0**9


def test_second_derivative_is_refused() -> None:
    lists = tuple(samples.feature_matching.inputs().values())
    (grad,) = torch.autograd.grad(feature_matching_loss(*lists) ** 2, lists[0][:1], create_graph=True)
    with pytest.raises(RuntimeError, match=r"feature_matching.*once, not twice"):
        grad.sum().backward()


def test_reference_gradcheck() -> None:
    x, y = samples.feature_matching.inputs(((2, 2, 3),), dtype=torch.float64).values()
    y = [a.detach() + torch.where(a == b, 1.0, b - a).detach() for a, b in zip(x, y, strict=True)]
    torch.autograd.gradcheck(lambda a, b: reference.feature_matching_loss([a], [b]), (x[0], y[0].requires_grad_()))
    torch.autograd.gradcheck(lambda a, b: feature_matching_loss([a], [b], norm="sum"), (x[0], y[0].requires_grad_()))


def test_the_two_branches_of_the_prior() -> None:
    """The gradient to v through both branches is dL/dx J(v) + (1 + α) dL/dx' J(v'), by the one-line oracle."""
    v, residual, alpha = torch.randn(2, 4, 4, 4, requires_grad=True), torch.randn(2, 4, 4, 4), torch.rand(2, 1, 1, 1)
    v_prime = (1 + alpha) * v - (alpha * v).detach() + residual
    (grad,) = torch.autograd.grad(feature_matching_loss([v.sin()], [v_prime.sin()], norm="sum"), v)
    sign = (v.sin() - v_prime.sin()).sign() / 2
    torch.testing.assert_close(grad, sign * v.cos() - (1 + alpha) * sign * v_prime.cos())


def test_module() -> None:
    lists = tuple(samples.feature_matching.inputs().values())
    module = FeatureMatchingLoss(norm="sum", batch_reduction="sum", nonfinite="zero")
    expected = feature_matching_loss(*lists, norm="sum", batch_reduction="sum", nonfinite="zero")
    assert torch.equal(module(*lists), expected) and torch.equal(
        module(samples.feature_matching.halves(*lists)), expected
    )
    assert repr(module) == "FeatureMatchingLoss(norm='sum', batch_reduction='sum', nonfinite='zero')"
