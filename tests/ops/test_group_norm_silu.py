"""Group norm and SiLU against float64 and PyTorch's own, in every shape, dtype and layout. Run also interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import _settings
from ldp_fast.ops import _library

from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close

OPS = torch.ops.ldp_fast
NAMES = ("group_norm_moments", "group_norm_silu", "group_norm_silu_backward")
NAN = float("nan")

# e^-h of the interpreted kernels, in lanes past the end of a sample too: numpy speaks up, and infinity is right.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
crossed, WIDEST_FIRST = samples.group_norm_silu.crossed, samples.group_norm_silu.WIDEST_FIRST


def textbook(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, silu: bool) -> Tensor:
    y = F.group_norm(x, groups, weight, bias, samples.group_norm_silu.EPS)
    return F.silu(y) if silu else y


def ours(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, silu: bool) -> Tensor:
    return OPS.group_norm_silu(x, *OPS.group_norm_moments(x, groups, samples.group_norm_silu.EPS), weight, bias, silu)


def with_gradient(function: Any, sample: dict[str, Any], groups: int, silu: bool) -> tuple[Tensor, Tensor]:
    x = sample["x"].detach().requires_grad_()
    y = function(x, groups, sample["weight"], sample["bias"], silu)
    return y.detach(), torch.autograd.grad(y, x, sample["grad"])[0]


def compare(result: Tensor, eager: Tensor, truth: Tensor, condition: float = 1.0, **rule: Any) -> None:
    if result.dtype == torch.float64:  # no truth is wider
        largest = float(truth.abs().max()) if truth.numel() else 0.0
        torch.testing.assert_close(result, truth, rtol=1e-12, atol=1e-12 * largest * condition)
    else:
        # What cancels was computed in float32, whatever is stored.
        own = condition * torch.finfo(torch.float32).eps / torch.finfo(result.dtype).eps
        assert_close(result, eager, truth, condition=max(own, 1.0), **rule)


def cancellation(sample: dict[str, Any], groups: int, silu: bool, truth: Tensor) -> float:
    """Size of the terms of the gradient, g / σ, over what is left of them: little in a group of two, where x̂ is ±1."""
    wide = samples.widen(sample)
    grouped = wide["x"].unflatten(1, (groups, -1))
    variance, mean = torch.var_mean(grouped, (2, 3, 4), correction=0, keepdim=True)
    rstd = (variance + samples.group_norm_silu.EPS).rsqrt()
    normal = ((grouped - mean) * rstd).flatten(1, 2).requires_grad_()
    shape = (1, -1, 1, 1)
    h = normal if wide["weight"] is None else normal * wide["weight"].view(shape) + wide["bias"].view(shape)
    (g,) = torch.autograd.grad(F.silu(h) if silu else h, normal, wide["grad"])
    terms = g.unflatten(1, (groups, -1)) * rstd
    return max(float(terms.abs().max() / truth.abs().max()), 1.0) if truth.numel() else 1.0


def lies_like(x: Tensor, result: Tensor) -> bool:
    """Contiguous where x is, else channels-last."""
    last = x.is_contiguous(memory_format=torch.channels_last) or not x.is_contiguous()
    return result.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def check(sample: dict[str, Any], groups: int, silu: bool, condition: float = 1.0) -> None:
    """Output and gradient against float64, by the rule of tests/support/tolerances.py."""
    results = with_gradient(ours, sample, groups, silu)
    truth = with_gradient(textbook, samples.widen(sample), groups, silu)
    # A condition means that PyTorch's own is not a yardstick: it loses what cancels.
    eager = with_gradient(textbook, sample, groups, silu) if condition == 1.0 else truth
    conditions = (condition, condition * cancellation(sample, groups, silu, truth[1]))
    for result, theirs, exact, factor, own in zip(results, eager, truth, (OUTPUT, GRADIENT), conditions, strict=True):
        assert result.dtype == sample["x"].dtype and lies_like(sample["x"], result)
        compare(result, theirs, exact, own, factor=factor, what=f"groups {groups}, silu {silu}")


# Kernels widen before they compute: what comes after does not depend on the dtype.
@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "silu"),
    crossed(*((dtype, True) for dtype in WIDEST_FIRST), (torch.float32, False)),
    ids=str,
)
@pytest.mark.usefixtures("poisoned")
def test_matches_float64(shape: samples.Shape, groups: int, dtype: torch.dtype, silu: bool) -> None:
    check(samples.group_norm_silu.inputs(shape, dtype=dtype), groups, silu)


@pytest.mark.parametrize(
    ("shape", "groups", "dtype"),
    crossed(*((dtype,) for dtype in WIDEST_FIRST)),
    ids=str,
)
def test_moments(shape: samples.Shape, groups: int, dtype: torch.dtype) -> None:
    x = samples.group_norm_silu.inputs(shape, dtype=dtype)["x"]
    wide = torch.promote_types(dtype, torch.float32)
    results = OPS.group_norm_moments(x, groups, samples.group_norm_silu.EPS)
    truths, eagers = (
        (mean, torch.rsqrt(variance + samples.group_norm_silu.EPS))
        for variance, mean in (
            torch.var_mean(x.to(kind).reshape(shape[0], groups, -1), 2, correction=0) for kind in (torch.float64, wide)
        )
    )
    for result, eager, truth in zip(results, eagers, truths, strict=True):
        assert result.shape == (shape[0], groups) and result.dtype == wide
        # A mean is what is left of terms whose size is the standard deviation.
        compare(result, eager, truth, what="moments", condition=1 / float(truth.abs().max()))


@pytest.mark.parametrize("layout", samples.LAYOUTS[:-1])
@pytest.mark.parametrize("dtype", samples.DTYPES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_layouts(dtype: torch.dtype, layout: str) -> None:
    sample = samples.group_norm_silu.inputs((2, 12, 5, 7), dtype=dtype, layout=layout)
    check(sample, 3, True)


# In planes vectors run along pixels: fewer than a vector, no multiple of one, more than a part.
@pytest.mark.parametrize(
    ("shape", "groups", "dtype"),
    crossed(
        *((dtype,) for dtype in WIDEST_FIRST),
        cases=[*samples.group_norm_silu.CASES, *([] if _settings.interpreting() else [((1, 2, 150, 151), 1)])],
    ),
    ids=str,
)
@pytest.mark.usefixtures("poisoned")
def test_contiguous_images(shape: samples.Shape, groups: int, dtype: torch.dtype) -> None:
    check(samples.group_norm_silu.inputs(shape, dtype=dtype, layout="contiguous"), groups, True)


class Backward:
    """The gradient of one sample, alone and with what else arrives at x, for images that lie in any way."""

    def __init__(self, shape: samples.Shape) -> None:
        self.sample = samples.group_norm_silu.inputs(shape)
        grad, x, addend, weight, bias = (self.sample[name] for name in ("grad", "x", "addend", "weight", "bias"))
        self.arguments = (*OPS.group_norm_moments(x, 2, samples.group_norm_silu.EPS), weight, bias, True)
        self.packed, _ = samples.group_norm_silu.signs(x)
        self.expected = self.of(grad, x, addend)

    def of(self, grad: Tensor, x: Tensor, addend: Tensor) -> list[Tensor]:
        more = ((), (addend,), (addend, self.packed, 0.5))
        return [OPS.group_norm_silu_backward(grad, x, *self.arguments, *each) for each in more]


@pytest.fixture(scope="module")
def backward() -> Backward:
    return Backward((2, 6, 5, 3) if _settings.interpreting() else (2, 24, 19, 5))


@pytest.mark.parametrize("others", ["contiguous", "channels_last", "cropped"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "cropped"])
def test_images_of_one_call_may_lie_differently(layout: str, others: str, backward: Backward) -> None:
    """x decides how the gradient lies; signs are in the order of channels-last images, however x lies."""
    places = (("grad", others), ("x", layout), ("addend", others))
    grad, x, addend = (samples.lay_out(backward.sample[name], kind) for name, kind in places)
    for result, expected in zip(backward.of(grad, x, addend), backward.expected, strict=True):
        assert lies_like(x, result)
        torch.testing.assert_close(result, expected)


@settings(max_examples=6 if _settings.interpreting() else 40, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 9),
    in_group=st.integers(1, 17),
    height=st.integers(2, 9),
    width=st.integers(1, 9),
    dtype=st.sampled_from((*samples.DTYPES, torch.float64)),
    affine=st.booleans(),
    silu=st.booleans(),
)
def test_any_shape(
    batch: int, groups: int, in_group: int, height: int, width: int, dtype: torch.dtype, affine: bool, silu: bool
) -> None:
    shape = (batch, groups * in_group, height, width)
    check(samples.group_norm_silu.inputs(shape, dtype=dtype, affine=affine), groups, silu)


@pytest.mark.parametrize("shape", [(2, 32, 9, 9), (1, 96, 16, 24)], ids=str)
def test_a_mean_far_from_zero_costs_no_digits_but_its_own(shape: samples.Shape) -> None:
    """Mean 100, standard deviation 1: E[x²] − E[x]² in float32 would have three digits left."""
    check(samples.group_norm_silu.inputs(shape, mean=100.0), 8, True, condition=100.0)


@pytest.mark.parametrize("shape", [(2, 32, 9, 9), (1, 96, 16, 24), (1, 8, 40, 41)], ids=str)
@pytest.mark.parametrize("first", [1, 4, 30])
def test_first_pixels_far_from_the_others(shape: samples.Shape, first: int) -> None:
    """What a one-pass variance with a shift from the first elements has to live with."""
    sample = samples.group_norm_silu.inputs(shape)
    sample["x"].permute(0, 2, 3, 1).flatten(1, 2)[:, :first] += 30.0
    check(sample, 8, True)


def test_a_constant_image_is_its_own_mean() -> None:
    x = torch.full((2, 8, 5, 7), 0.1)
    mean, rstd = OPS.group_norm_moments(x, 4, 1e-12)
    torch.testing.assert_close(mean, torch.full((2, 4), 0.1))
    # A variance of rounding errors alone, and no NaN.
    assert (rstd >= 1e5).all()


def test_a_group_of_one_element_has_no_gradient() -> None:
    sample = samples.group_norm_silu.inputs((2, 4, 1, 1))
    y, grad = with_gradient(ours, sample, 4, True)
    torch.testing.assert_close(y, F.silu(sample["bias"])[None, :, None, None].expand_as(y))
    # Two equal terms of the size of 1/√ε cancel.
    assert grad.abs().max() <= 8 * torch.finfo(torch.float32).eps * samples.group_norm_silu.EPS**-0.5


@pytest.mark.parametrize("constants", [torch.float16, torch.float64], ids=str)
def test_weight_and_bias_may_have_another_dtype(constants: torch.dtype) -> None:
    sample = samples.group_norm_silu.inputs(dtype=torch.float32)
    other = {name: sample[name].to(constants) for name in ("weight", "bias")}
    same = {name: value.float() for name, value in other.items()}
    pairs = (with_gradient(ours, sample | each, 8, True) for each in (other, same))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


# Without both it is `test_matches_float64`; one without the other is the same for every dtype.
@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "with_addend", "with_signs"),
    crossed(
        *((dtype, True, True) for dtype in WIDEST_FIRST),
        *((torch.float32, *more) for more in ((True, False), (False, True), (True, "nan"))),
        cases=[*(case for case in samples.group_norm_silu.CASES if case[0][0] == 2), ((4, 24, 19, 5), 8)],
    ),
    ids=str,
)
@pytest.mark.usefixtures("poisoned")
def test_addend_and_signs_come_along(
    shape: samples.Shape, groups: int, dtype: torch.dtype, with_addend: bool, with_signs: Any
) -> None:
    sample = samples.group_norm_silu.inputs(shape, dtype=dtype)
    addend = sample["addend"] if with_addend else None
    packed, signs = samples.group_norm_silu.signs(sample["x"], nan=with_signs == "nan") if with_signs else (None, None)
    arguments = (
        *OPS.group_norm_moments(sample["x"], groups, samples.group_norm_silu.EPS),
        sample["weight"],
        sample["bias"],
        True,
    )
    result = OPS.group_norm_silu_backward(sample["grad"], sample["x"], *arguments, addend, packed, 0.37)

    def separately(values: dict[str, Any]) -> Tensor:
        total = with_gradient(textbook, values, groups, True)[1]
        if with_addend:
            total = total + values["addend"]
        return total if signs is None else total + 0.37 * torch.cat([signs, -signs]).to(total.dtype)

    eager, truth = separately(sample), separately(samples.widen(sample))
    assert torch.equal(result.isnan(), truth.isnan())
    assert bool(result.isnan().any()) == (with_signs == "nan")
    compare(*(x.nan_to_num(0.0) for x in (result, eager, truth)), factor=GRADIENT, what="everything at x")


def test_signs_are_those_of_feature_matching() -> None:
    """Its gradient on the same features, in its memory order."""
    sample = samples.group_norm_silu.inputs((4, 24, 19, 5))
    x, rows = sample["x"], sample["x"].permute(0, 2, 3, 1).flatten(1)
    signs = OPS.feature_matching([rows], [], "sum", "sum", "propagate", True)[3]
    (matching,) = OPS.feature_matching_backward(
        torch.ones(()), signs, [rows.shape[1]], 2, x.dtype, "sum", "sum", True, True, True
    )
    arguments = (
        sample["grad"],
        x,
        *OPS.group_norm_moments(x, 8, samples.group_norm_silu.EPS),
        sample["weight"],
        sample["bias"],
        True,
    )
    with_signs = OPS.group_norm_silu_backward(*arguments, None, signs, 1.0)
    added = OPS.group_norm_silu_backward(*arguments) + matching.view(4, 19, 5, 24).permute(0, 3, 1, 2)
    torch.testing.assert_close(with_signs, added)


def test_empty_batch() -> None:
    for dtype in (torch.float32, torch.float16):
        sample = samples.group_norm_silu.inputs((0, 8, 3, 3), dtype=dtype)
        y, grad = with_gradient(ours, sample, 4, True)
        assert y.shape == grad.shape == (0, 8, 3, 3)
        assert OPS.group_norm_moments(sample["x"], 4, samples.group_norm_silu.EPS)[0].shape == (0, 4)
        signs = samples.group_norm_silu.signs(sample["x"])[0]
        moments = OPS.group_norm_moments(sample["x"], 4, samples.group_norm_silu.EPS)
        OPS.group_norm_silu_backward(sample["grad"], sample["x"], *moments, None, None, True, None, signs, 1.0)


# Interpreted kernels are the same for all, and slow.
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float64, *([] if _settings.interpreting() else [torch.float32])], ids=str
)
@pytest.mark.parametrize("name", NAMES)
def test_opcheck(name: str, dtype: torch.dtype) -> None:
    for arguments in samples.group_norm_silu.argument_tuples(name, dtype=dtype):
        torch.library.opcheck(getattr(OPS, name).default, arguments)


@pytest.mark.parametrize("name", NAMES)
def test_shape_functions_promise_the_real_strides(name: str) -> None:
    for arguments in samples.group_norm_silu.argument_tuples(name):
        results, promised = getattr(OPS, name)(*arguments), _library.OPERATORS[name].fake(*arguments)
        pairs = zip(results, promised, strict=True) if isinstance(results, tuple) else [(results, promised)]
        for result, promise in pairs:
            assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


def test_what_cannot_be_differentiated_says_so() -> None:
    sample = samples.group_norm_silu.inputs()
    x = sample["x"].requires_grad_()
    moments = OPS.group_norm_moments(x, 8, samples.group_norm_silu.EPS)
    assert not moments[0].requires_grad and not moments[1].requires_grad
    y = OPS.group_norm_silu(x, *moments, sample["weight"], sample["bias"], True)
    (grad,) = torch.autograd.grad(y, x, sample["grad"].requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="group_norm_silu can be differentiated once, not twice"):
        grad.sum().backward()
    for name in ("weight", "bias"):
        constants = {"weight": sample["weight"], "bias": sample["bias"]}
        constants[name] = constants[name].clone().requires_grad_()
        with pytest.raises(RuntimeError, match=f"group_norm_silu: {name}: expected a frozen one"):
            OPS.group_norm_silu(x, *moments, constants["weight"], constants["bias"], True)
        with torch.no_grad():
            OPS.group_norm_silu(x, *moments, constants["weight"], constants["bias"], True)


def bad(**changes: Any) -> tuple[Any, ...]:
    x = torch.zeros(2, 6, 3, 3)
    arguments: dict[str, Any] = {"grad": x, "x": x, "mean": torch.zeros(2, 3), "rstd": torch.ones(2, 3)}
    arguments |= {"weight": None, "bias": None, "silu": True, "addend": None, "signs": None, "sign_weight": 1.0}
    return tuple((arguments | changes).values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (bad(x=torch.zeros(6, 3, 3)), "x: expected a floating-point tensor .B, C, H, W."),
        (bad(x=torch.zeros(2, 6, 0, 3)), "x: expected .* at least one element"),
        (bad(mean=torch.zeros(2, 4)), "mean: expected shape .2, G. with G a divisor of the 6 channels"),
        (bad(mean=torch.zeros(1, 3)), "mean: expected shape"),
        (bad(rstd=torch.zeros(2, 2)), "rstd: expected the mean's shape"),
        (bad(mean=torch.zeros(2, 3).half()), "mean: expected torch.float32"),
        (bad(weight=torch.zeros(5)), "weight: expected a floating-point tensor .6."),
        (bad(bias=torch.zeros(6).int()), "bias: expected a floating-point tensor .6."),
        (bad(weight=torch.zeros(6, device="meta")), "weight: expected a tensor on cpu, where x is"),
        (bad(grad=torch.zeros(2, 6, 3, 3, device="meta")), "grad: expected a tensor on cpu, where x is"),
        (bad(grad=torch.zeros(2, 6, 3, 4)), "grad: expected x's"),
        (bad(addend=torch.zeros(2, 6, 3, 3).half()), "addend: expected x's"),
        (bad(signs=torch.zeros(2, 512, dtype=torch.int32)), "signs: expected torch.int32 .1, 512."),
        (bad(signs=torch.zeros(1, 512, dtype=torch.int16)), "signs: expected torch.int32"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_errors_name_the_argument(monkeypatch: Any, backend: str, arguments: tuple[Any, ...], words: str) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    with pytest.raises(ValueError, match=f"^group_norm_silu_backward: {words}.*got"):
        OPS.group_norm_silu_backward(*arguments)


def test_errors_of_the_others() -> None:
    x = torch.zeros(3, 6, 2, 2)
    with pytest.raises(
        ValueError, match="group_norm_moments: groups: expected a divisor of the 6 channels of x, got 4"
    ):
        OPS.group_norm_moments(x, 4, samples.group_norm_silu.EPS)
    with pytest.raises(ValueError, match="groups: expected a divisor"):
        OPS.group_norm_moments(x, 0, samples.group_norm_silu.EPS)
    moments = OPS.group_norm_moments(x, 3, samples.group_norm_silu.EPS)
    with pytest.raises(ValueError, match="group_norm_silu: weight: expected"):
        OPS.group_norm_silu(x, *moments, torch.zeros(3), None, True)
    signs = torch.zeros(1, 512, dtype=torch.int32)
    with pytest.raises(ValueError, match="signs: expected an even batch"):
        OPS.group_norm_silu_backward(x, x, *moments, None, None, True, None, signs, 1.0)


@pytest.mark.parametrize("dtype", samples.DTYPES, ids=str)
def test_nan_in_a_group_stays_in_it(dtype: torch.dtype) -> None:
    sample = samples.group_norm_silu.inputs((2, 8, 5, 7), dtype=dtype)
    sample["x"][1, 2, 3, 4] = NAN
    y, grad = with_gradient(ours, sample, 4, True)
    hurt = torch.zeros_like(y, dtype=torch.bool)
    hurt[1, 2:4] = True
    assert torch.equal(y.isnan(), hurt) and torch.equal(grad.isnan(), hurt)


def test_layouts_arrange_the_same_values() -> None:
    sample, other = (
        samples.group_norm_silu.inputs(layout="contiguous"),
        samples.group_norm_silu.inputs(layout="channels_last"),
    )
    assert torch.equal(sample["x"], other["x"]) and torch.equal(samples.lay_out(sample["x"], "cropped"), other["x"])
