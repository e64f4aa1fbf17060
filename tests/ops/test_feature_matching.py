"""Feature matching against float64, in every layout, dtype and policy. Run also in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import _settings
from ldp_fast.losses.feature_matching import feature_matching_loss
from ldp_fast.reference import feature_matching as reference
from tests.support import samples
from tests.support.tolerances import GRADIENT, assert_close

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
INF, NAN = float("inf"), float("nan")


def detached(tensors: list[Tensor], dtype: torch.dtype | None = None) -> list[Tensor]:
    return [x.detach().to(dtype or x.dtype).clone().requires_grad_() for x in tensors]


def check(features: list[Tensor], features_prime: list[Tensor], **options: str) -> None:
    """Loss and gradients against float64, by the rule of tests/support/tolerances.py."""
    results = []
    for function, dtype in ((feature_matching_loss, None), (reference.feature_matching_loss, features[0].dtype)):
        xs = features if dtype is None else detached(features)
        x_primes = features_prime if dtype is None else detached(features_prime)
        loss = function(xs, x_primes, **options)
        results.append((loss, torch.autograd.grad(loss * 3, xs + x_primes)))
    wide, wide_prime = detached(features, torch.float64), detached(features_prime, torch.float64)
    truth = reference.feature_matching_loss(wide, wide_prime, **options)
    truth_grads = torch.autograd.grad(truth * 3, wide + wide_prime)
    (loss, grads), (eager, eager_grads) = results
    assert loss.dtype == torch.promote_types(features[0].dtype, torch.float32) and loss.shape == ()
    if features[0].dtype == torch.float64:  # no truth is wider
        torch.testing.assert_close([loss, *grads], [truth, *truth_grads], rtol=1e-13, atol=0)
        return
    assert_close(loss, eager, truth, what="loss")
    for x, grad, eager_grad, truth_grad in zip(features + features_prime, grads, eager_grads, truth_grads, strict=True):
        assert grad.dtype == x.dtype
        assert torch.equal(grad.sign(), truth_grad.sign().to(grad.dtype))
        assert_close(grad, eager_grad, truth_grad, factor=GRADIENT, what="gradient")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_reduction", ["mean", "sum"])
@pytest.mark.parametrize("norm", ["mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_matches_float64(dtype: torch.dtype, norm: str, batch_reduction: str, device: str) -> None:
    check(
        *samples.feature_matching.inputs(dtype=dtype, device=device).values(),
        norm=norm,
        batch_reduction=batch_reduction,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout_prime", samples.feature_matching.LAYOUTS)
@pytest.mark.parametrize("layout", samples.feature_matching.LAYOUTS)
@pytest.mark.usefixtures("poisoned")
def test_every_pair_of_layouts(layout: str, layout_prime: str, device: str) -> None:
    shapes = ((3, 5, 7), (16, 5, 8))
    lists = tuple(
        samples.feature_matching.inputs(
            shapes, dtype=torch.bfloat16, device=device, layout=layout, layout_prime=layout_prime
        ).values()
    )
    check(*lists)
    grads = torch.autograd.grad(feature_matching_loss(*lists), lists[0])
    if layout == "channels_last":
        assert all(grad.is_contiguous(memory_format=torch.channels_last) for grad in grads)


@settings(max_examples=8 if _settings.interpreting() else 25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=11),
    batch=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(
        st.sampled_from(samples.feature_matching.LAYOUTS), st.sampled_from(samples.feature_matching.LAYOUTS)
    ),
    norm=st.sampled_from(["mean", "sum"]),
    batch_reduction=st.sampled_from(["mean", "sum"]),
    exponent=st.integers(-3, 3),
)
def test_any_shape(
    shapes: list[tuple[int, int, int]],
    batch: int,
    dtype: torch.dtype,
    layouts: tuple[str, str],
    norm: str,
    batch_reduction: str,
    exponent: int,
) -> None:
    lists = tuple(
        samples.feature_matching.inputs(
            shapes, batch=batch, dtype=dtype, layout=layouts[0], layout_prime=layouts[1], scale=10.0**exponent
        ).values()
    )
    check(*lists, norm=norm, batch_reduction=batch_reduction)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_halves_are_the_lists_bit_for_bit(dtype: torch.dtype, layout: str, device: str) -> None:
    lists = tuple(samples.feature_matching.inputs(dtype=dtype, device=device, layout=layout).values())
    loss, statistics = feature_matching_loss(*lists, return_statistics=True)
    grads = torch.autograd.grad(loss, lists[0] + lists[1])
    halves = samples.feature_matching.halves(*lists)
    loss_halves, statistics_halves = feature_matching_loss(halves, None, return_statistics=True)
    grads_halves = torch.autograd.grad(loss_halves, halves)
    assert torch.equal(loss, loss_halves)
    assert all(torch.equal(a, b) for a, b in zip(statistics, statistics_halves, strict=True))
    for grad, grad_prime, whole, x in zip(
        grads[: len(samples.feature_matching.SMALL)],
        grads[len(samples.feature_matching.SMALL) :],
        grads_halves,
        halves,
        strict=True,
    ):
        assert torch.equal(torch.cat([grad, grad_prime]), whole)
        assert whole.stride() == x.stride()


@pytest.mark.parametrize("device", DEVICES)
def test_nonfinite_differences(device: str) -> None:
    x = torch.tensor([1.0, INF, NAN, INF, -INF, 2.0, 0.0, -1.0], device=device).view(1, 2, 2, 2).requires_grad_()
    y = torch.tensor([3.0, 1.0, 1.0, INF, 0.0, 2.0, -0.0, NAN], device=device).view(1, 2, 2, 2).requires_grad_()

    loss, statistics = feature_matching_loss([x], [y], norm="sum", return_statistics=True)
    grad, grad_prime = torch.autograd.grad(loss, [x, y])
    expected = torch.tensor([-1.0, 1.0, NAN, NAN, -1.0, 0.0, 0.0, NAN], device=device).view_as(x)
    assert loss.isnan() and statistics.nonfinite.tolist() == [[5]] and statistics.level_values.isnan().all()
    torch.testing.assert_close(grad, expected, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(grad_prime, -expected, equal_nan=True, rtol=0, atol=0)

    loss, statistics = feature_matching_loss([x], [y], norm="sum", nonfinite="zero", return_statistics=True)
    grad, grad_prime = torch.autograd.grad(loss, [x, y])
    expected = torch.tensor([-1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], device=device).view_as(x)
    assert loss == 2 and statistics.nonfinite.tolist() == [[5]] and statistics.level_values.item() == 2 / 8
    assert torch.equal(grad, expected) and torch.equal(grad_prime, -expected)

    ok = torch.zeros_like(x)
    with pytest.raises(FloatingPointError, match=r"feature_matching_loss: .*5 in level 1"):
        feature_matching_loss([ok, x], [ok, y], nonfinite="raise")
    assert feature_matching_loss([ok], [ok], nonfinite="raise") == 0


def test_infinite_difference_is_an_infinite_loss_with_a_finite_gradient() -> None:
    x, y = torch.full((1, 1, 1, 2), INF, requires_grad=True), torch.zeros(1, 1, 1, 2)
    loss = feature_matching_loss([x], [y])
    assert loss == INF and torch.autograd.grad(loss, x)[0].tolist() == [[[[0.5, 0.5]]]]


def test_overflow_of_a_finite_difference_is_counted() -> None:
    x = torch.full((1, 1, 1, 2), 3e38)
    assert feature_matching_loss([x], [-x], nonfinite="zero", return_statistics=True)[1].nonfinite.tolist() == [[2]]


def test_statistics_are_means_whatever_the_norm() -> None:
    lists = tuple(samples.feature_matching.inputs(batch=3).values())
    truth = torch.stack([(x - y).abs().flatten(1).mean(1) for x, y in zip(*lists, strict=True)])
    for norm in ("mean", "sum"):
        _, statistics = feature_matching_loss(*lists, norm=norm, return_statistics=True)
        torch.testing.assert_close(statistics.level_values, truth.detach())
        assert statistics.level_values.dtype == torch.float32 and not statistics.level_values.requires_grad
        assert statistics.nonfinite.dtype == torch.int32 and statistics.nonfinite.tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_are_bit_equal(device: str) -> None:
    lists = tuple(samples.feature_matching.inputs(dtype=torch.bfloat16, device=device).values())
    runs = []
    for _ in range(2):
        loss = feature_matching_loss(*lists)
        runs.append([loss, *torch.autograd.grad(loss, lists[0] + lists[1])])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_empty_batch() -> None:
    lists = tuple(samples.feature_matching.inputs(batch=0).values())
    loss, statistics = feature_matching_loss(*lists, return_statistics=True)
    loss.backward()
    assert loss == 0 and statistics.level_values.shape == (3, 0) and statistics.nonfinite.shape == (3, 0)
    assert all(x.grad is not None and x.grad.shape == x.shape for x in lists[0] + lists[1])
    assert feature_matching_loss(lists[0], None) == 0


def test_more_levels_than_a_launch_takes() -> None:
    check(*samples.feature_matching.inputs(((2, 3, 3), (8, 4, 4)) * 9, dtype=torch.float16).values())


def test_expanded_batch_is_read_in_place() -> None:
    x = torch.randn(1, 8, 4, 4).expand(3, -1, -1, -1).requires_grad_()
    y = torch.randn(3, 8, 4, 4, requires_grad=True)
    check([x], [y])


def bad(**changes: object) -> dict[str, object]:
    x = torch.zeros(2, 4, 3, 3)
    return {"features": [x], "features_prime": [x], **changes}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (bad(features=[]), ValueError, "features: expected at least one level"),
        (bad(features=torch.zeros(2, 4, 3, 3)), TypeError, "features: expected a list"),
        (bad(features_prime=[]), ValueError, "features_prime: expected as many levels"),
        (bad(features_prime=[torch.zeros(2, 4, 3, 4)]), ValueError, "features_prime.0.: expected the shape"),
        (bad(features_prime=[torch.zeros(2, 4, 3, 3).half()]), TypeError, "features_prime.0.: expected the dtype"),
        (bad(features=[torch.zeros(2, 4, 3)]), ValueError, "features.0.: expected shape"),
        (bad(features=[torch.zeros(2, 4, 3, 3).int()]), TypeError, "features.0.: expected float"),
        (bad(features=[torch.zeros(2, 0, 3, 3)]), ValueError, "at least one element"),
        (bad(features=[torch.zeros(3, 4, 3, 3)], features_prime=None), ValueError, "even batch"),
        (bad(features=[torch.zeros(2, 1, 1, 1), torch.zeros(4, 1, 1, 1)], features_prime=None), ValueError, "batch of"),
        (bad(norm="max"), ValueError, "norm: expected one of"),
        (bad(batch_reduction="none"), ValueError, "batch_reduction: expected one of"),
        (bad(nonfinite="ignore"), ValueError, "nonfinite: expected one of"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^feature_matching_loss: .*{words}") as caught:
        feature_matching_loss(**arguments)  # type: ignore[arg-type]
    assert "got" in str(caught.value) and "\n" not in str(caught.value)


needs_triton = pytest.mark.skipif(
    not _settings.interpreting(), reason="runs the Triton launcher on CPU tensors: set TRITON_INTERPRET=1"
)


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_interpreted_kernel_packs_the_reference_bits(dtype: torch.dtype) -> None:
    from ldp_fast.kernels import feature_matching as kernel

    lists = tuple(samples.feature_matching.inputs(dtype=dtype, requires_grad=False).values())
    lists[0][1].view(-1)[7:9] = NAN
    rows = [[x.flatten(1) for x in entries] for entries in lists]
    expected = reference.forward(*rows, "mean", "mean", "propagate", True)
    outputs = [torch.full_like(x, 77) for x in expected]
    kernel.forward(*outputs, *rows, "mean", "mean", "propagate", True)
    assert torch.equal(outputs[3], expected[3]) and torch.equal(outputs[2], expected[2])
    torch.testing.assert_close(outputs[:2], list(expected[:2]), equal_nan=True)


@needs_triton
@pytest.mark.parametrize("layout", ["contiguous", "offset"])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_interpreted_kernel_writes_nothing_beside_its_outputs(dtype: torch.dtype, layout: str) -> None:
    from ldp_fast.kernels import feature_matching as kernel

    lists = tuple(samples.feature_matching.inputs(dtype=dtype, layout=layout, requires_grad=False).values())
    rows = [[x.flatten(1) for x in entries] for entries in lists]
    promised = torch.ops.ldp_fast.feature_matching(*rows, "mean", "mean", "propagate", True)
    outer = [x.new_full((x.numel() + 64,), 77) for x in promised]
    inner = [o[32:-32].view_as(x) for o, x in zip(outer, promised, strict=True)]
    kernel.forward(*inner, *rows, "mean", "mean", "propagate", True)
    gradients = [x for entries in rows for x in entries]
    outer_grads = [x.new_full((x.numel() + 64,), 77) for x in gradients]
    inner_grads = [o[32:-32].view_as(x) for o, x in zip(outer_grads, gradients, strict=True)]
    sizes = [x.shape[1] for x in rows[0]]
    kernel.backward(inner_grads, torch.ones(()), inner[3], sizes, 2, dtype, "sum", "sum", False, True, True)
    for buffer in outer + outer_grads:
        assert (buffer[:32] == 77).all() and (buffer[-32:] == 77).all()
    assert all((x.abs() <= 1).all() for x in inner_grads)


def test_layouts_arrange_the_same_values() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert all(
        torch.equal(samples.feature_matching.arrange(x, layout), x) for layout in samples.feature_matching.LAYOUTS
    )
