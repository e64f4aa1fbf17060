"""The frozen convolution against float64 and PyTorch's own: kinds, shapes, dtypes, layouts, and what is not finite."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldp_fast.ops import _library, _native
from ldp_fast.ops import frozen_conv as module
from ldp_fast.reference.frozen_conv import fold_upsample

from ..support import samples
from ..support.tolerances import FLOOR_ULPS, GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal, weights_like

CONV = torch.ops.ldp_fast.frozen_conv
NAN, INF = float("nan"), float("inf")

# (x, channels out): channels of the Winograd path and not; sides of no tile, one, several; one pixel; an empty batch.
CASES: tuple[tuple[samples.Shape, int], ...] = (
    ((1, 16, 1, 1), 16),
    ((2, 32, 1, 2), 48),
    ((1, 16, 3, 1), 80),
    ((3, 48, 2, 5), 16),
    ((1, 80, 5, 4), 32),
    ((2, 48, 4, 9), 16),
    ((1, 16, 31, 33), 32),
    ((1, 512, 4, 6), 16),
    ((1, 16, 6, 4), 512),
    ((0, 16, 5, 5), 32),
    ((2, 5, 3, 5), 8),
    ((2, 16, 4, 3), 8),
)
FULL = {"bias": True, "silu": True, "addend": True}
needs_extension = pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension")


def textbook(
    x: Tensor, weight: Tensor, bias: Any, scale: Any, shift: Any, addend: Any, kind: str, silu: bool = True
) -> Tensor:
    """As PyTorch's users write it; the transposed kinds as autograd finds them."""
    if scale is not None:
        x = x * scale[:, :, None, None].to(x) + shift[:, :, None, None].to(x)
        x = F.silu(x) if silu else x
    if kind.endswith("transposed"):
        enlarge = 2 if kind.startswith("upsample") else 1
        size = (len(x), weight.shape[1], x.shape[2] // enlarge, x.shape[3] // enlarge)
        with torch.enable_grad():
            leaf = x.new_zeros(size).requires_grad_()
            y = F.conv2d(F.interpolate(leaf, scale_factor=float(enlarge)) if enlarge > 1 else leaf, weight, padding=1)
        (result,) = torch.autograd.grad(y, leaf, x)
    else:
        x = F.interpolate(x, scale_factor=2.0) if kind == "upsample" else x
        result = F.conv2d(x, weight, bias, padding=1)
    return result if addend is None else result + addend


def condition_of(sample: dict[str, Any], truth: Tensor) -> float:
    """How far the terms of the sums cancel: the largest sum of their magnitudes over the largest result.

    Winograd's products are of sums and differences of the inputs: its error is a few units of the terms, also where a
    direct sum of a few of them has less.
    """
    if not len(truth):
        return 1.0
    wide = samples.widen(sample)
    if wide["scale"] is not None:
        before = wide["x"] * wide["scale"][:, :, None, None] + wide["shift"][:, :, None, None]
        wide |= {"x": F.silu(before), "scale": None, "shift": None}
    terms = textbook(**{name: x.abs() if isinstance(x, Tensor) else x for name, x in wide.items()})
    return float(terms.max() / truth.abs().max())


def check(sample: dict[str, Any], *, allowance: bool = True) -> Tensor:
    """Against float64, by the rule of tests/support/tolerances.py; a transposed kind is a gradient."""
    result = CONV(**sample)
    assert result.dtype == sample["x"].dtype and result.is_contiguous(memory_format=torch.channels_last)
    truth = textbook(**samples.widen(sample))
    if result.dtype == torch.float64:  # no truth is wider
        torch.testing.assert_close(result, truth, rtol=1e-12, atol=1e-12)
        return result
    eager, kind = textbook(**sample), sample["kind"]
    factor = GRADIENT if kind.endswith("transposed") else OUTPUT
    condition = condition_of(sample, truth) if allowance else 1.0
    assert_close(result, eager, truth, factor=factor, what=kind, condition=condition)
    return result


@pytest.mark.parametrize("full", [False, True], ids=["bare", "full"])
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.parametrize(("shape", "out"), CASES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_matches_float64(shape: samples.Shape, out: int, kind: str, full: bool) -> None:
    check(samples.frozen_conv.inputs(kind, shape, out, **(FULL if full else {})))


@needs_extension
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.parametrize("channels", [128, 512])
def test_wide_convolutions_need_no_allowance(channels: int, kind: str) -> None:
    """The plain rule, for the channels that real decoders have, in the layout that the decoder has.

    In its default layout PyTorch's error on 512 channels is smaller; docs/decoder.md says by how much.
    """
    check(samples.frozen_conv.inputs(kind, (1, channels, 9, 11), 64), allowance=False)
    check(samples.frozen_conv.inputs(kind, (1, channels, 8, 8), 64, **FULL), allowance=False)
    check(samples.frozen_conv.inputs(kind, (1, channels, 9, 11), 64, layout="contiguous"))


@pytest.mark.parametrize("part", FULL)
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.usefixtures("poisoned")
def test_each_part_alone(kind: str, part: str) -> None:
    check(samples.frozen_conv.inputs(kind, (2, 32, 5, 6), 16, **{part: True}))


@pytest.mark.parametrize("dtype", (*samples.DTYPES, torch.float64), ids=str)
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.usefixtures("poisoned")
def test_dtypes(kind: str, dtype: torch.dtype) -> None:
    check(samples.frozen_conv.inputs(kind, (2, 16, 5, 3), 32, dtype=dtype, **FULL))


@pytest.mark.parametrize("weight_last", [False, True])
@pytest.mark.parametrize("layout", samples.LAYOUTS[:-1])
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
@pytest.mark.usefixtures("poisoned")
def test_layouts(kind: str, layout: str, weight_last: bool) -> None:
    check(samples.frozen_conv.inputs(kind, (2, 16, 5, 6), 32, layout=layout, weight_last=weight_last, **FULL))


@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_weights_may_be_a_slice(kind: str) -> None:
    sample = samples.frozen_conv.inputs(kind, (2, 16, 5, 6), 32)
    expected = CONV(**sample)
    larger = F.pad(sample["weight"], (1, 2, 2, 1, 3, 1, 1, 4))
    assert bitwise_equal(CONV(**sample | {"weight": larger[1:-4, 3:-1, 2:-1, 1:-2]}), expected)


@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_the_reference_serves_whoever_asks_for_it(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    monkeypatch.setattr(_library.OPERATORS["frozen_conv"], "native", None)
    check(samples.frozen_conv.inputs(kind, (2, 16, 5, 6), 32, **FULL))


@needs_extension
def test_what_the_extension_serves(monkeypatch: Any) -> None:
    """float32 in multiples of 16 channels, images of at least a tile; nothing else."""
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    ran: list[str] = []
    original = module.function
    monkeypatch.setattr(module, "function", lambda name: ran.append(name) or original(name))
    for kind, shape, out, dtype, native in (
        ("same", (1, 16, 4, 4), 16, torch.float32, True),
        ("same", (1, 16, 4, 4), 16, torch.float64, False),
        ("same", (1, 16, 4, 4), 16, torch.bfloat16, False),
        ("same", (1, 24, 4, 4), 16, torch.float32, False),
        ("same", (1, 16, 4, 4), 8, torch.float32, False),
        ("same", (1, 16, 3, 9), 16, torch.float32, False),
        ("same_transposed", (1, 16, 9, 3), 16, torch.float32, False),
        ("upsample", (1, 16, 4, 4), 16, torch.float32, True),
        ("upsample", (1, 16, 3, 4), 16, torch.float32, False),
        ("upsample_transposed", (1, 16, 4, 4), 16, torch.float32, True),
        ("upsample_transposed", (1, 16, 4, 3), 16, torch.float32, False),
    ):
        ran.clear()
        CONV(**samples.frozen_conv.inputs(kind, shape, out, dtype=dtype))
        assert bool(ran) is native, (kind, shape, out, dtype)


@pytest.mark.parametrize("kind", ["same", "upsample"])
@pytest.mark.parametrize("shape", [(2, 16, 7, 5), (1, 48, 1, 3), (2, 5, 4, 3)], ids=str)
def test_the_transposed_kind_is_the_adjoint(shape: samples.Shape, kind: str) -> None:
    """⟨A x, y⟩ = ⟨x, Aᵀ y⟩."""
    for dtype in (torch.float32, torch.float64):
        sample = samples.frozen_conv.inputs(kind, shape, 32, dtype=dtype)
        image = CONV(**sample)
        y = weights_like(image)
        back = CONV(**sample | {"x": y, "kind": f"{kind}_transposed"})
        left, right = ((a.double() * b.double()).sum() for a, b in ((image, y), (sample["x"], back)))
        unit = torch.finfo(dtype).eps * float(image.double().norm() * y.double().norm())
        assert abs(float(left - right)) <= FLOOR_ULPS * unit


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 5), (6, 7)], ids=str)
def test_folding_the_upsampling_is_exact(size: tuple[int, int]) -> None:
    x, weight = torch.randn(2, 3, *size, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), weight, padding=1)
    torch.testing.assert_close(F.conv_transpose2d(x, fold_upsample(weight), stride=2, padding=1), expected)
    grad = torch.randn_like(expected)
    back = F.conv2d(grad, fold_upsample(weight), stride=2, padding=1)
    torch.testing.assert_close(back, textbook(grad, weight, None, None, None, None, "upsample_transposed"))
    # Sums of two and four taps, made in float64 and rounded once.
    narrow = weight.float()
    assert torch.equal(fold_upsample(narrow), fold_upsample(narrow.double()).float())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_what_is_not_finite_shows_and_stays_near(kind: str, value: float) -> None:
    """Wherever the definition's result is not finite, and (kinds `same`) in the rest of the 4×4 outputs around it."""
    sample = samples.frozen_conv.inputs(kind, (2, 16, 9, 6), 16)
    clean = CONV(**sample)
    height, width = sample["x"].shape[2:]
    for y in range(height):
        for x in range(width):
            image = sample["x"].clone(memory_format=torch.preserve_format)
            image[1, 3, y, x] = value
            result = CONV(**sample | {"x": image})
            hurt, wanted = (~t.isfinite() for t in (result, textbook(**sample | {"x": image})))
            assert (hurt | ~wanted).all(), "hidden"
            pixels = hurt.any(1)
            assert torch.equal(result.masked_fill(pixels[:, None], 0), clean.masked_fill(pixels[:, None], 0))
            most = 25 if kind.startswith("same") else int(wanted.any(1).sum())
            assert not pixels[0].any() and int(pixels[1].sum()) <= most


@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_no_argument_hides_what_is_not_finite(kind: str) -> None:
    for name in ("weight", "bias", "scale", "shift", "addend"):
        sample = samples.frozen_conv.inputs(kind, (1, 16, 5, 4), 16, **FULL)
        if sample[name] is None:
            assert name == "bias" and kind.endswith("transposed")
            continue
        sample[name][(-1,) * sample[name].dim()] = NAN
        hurt, wanted = (~t.isfinite() for t in (CONV(**sample), textbook(**sample)))
        assert wanted.any() and (hurt | ~wanted).all(), name


@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_extreme_activations(kind: str) -> None:
    """silu far out on both sides: 0 and x, never NaN."""
    sample = samples.frozen_conv.inputs(kind, (1, 16, 4, 4), 16, silu=True)
    sample["shift"][:, ::2], sample["shift"][:, 1::2] = -3e4, 3e4
    check(sample)


@needs_extension
@pytest.mark.parametrize("kind", samples.frozen_conv.KINDS)
def test_the_same_bits_for_any_number_of_threads(kind: str) -> None:
    made = [
        samples.frozen_conv.inputs(kind, shape, 48, **FULL)
        for shape in ((2, 32, 19, 21), (1, 16, 4, 40), (3, 16, 4, 4))
    ]
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            runs.append([CONV(**sample) for sample in made])
    finally:
        torch.set_num_threads(threads)
    assert all(bitwise_equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@needs_extension
def test_a_shared_workspace_changes_no_bit() -> None:
    """Of growing and shrinking calls, whatever an earlier one left there."""
    made = [
        samples.frozen_conv.inputs(kind, shape, out, **FULL)
        for shape, out in (((1, 16, 4, 5), 16), ((2, 48, 9, 9), 80), ((1, 16, 6, 4), 32))
        for kind in samples.frozen_conv.KINDS
    ]
    expected = [CONV(**sample) for sample in made]
    with module.shared_workspace():
        for sample, result in zip(made, expected, strict=True):
            assert bitwise_equal(CONV(**sample), result)
            module._shared.workspace.fill_(NAN)
            assert bitwise_equal(CONV(**sample), result)
    assert not hasattr(module._shared, "workspace")


@needs_extension
def test_the_outermost_context_frees_the_workspace_of_its_thread() -> None:
    sample = samples.frozen_conv.inputs("same", (1, 16, 4, 4), 16)
    expected = CONV(**sample)
    held: dict[str, Any] = {}

    def elsewhere() -> None:
        held["before"] = hasattr(module._shared, "workspace")
        with module.shared_workspace():
            held["equal"] = bitwise_equal(CONV(**sample), expected)
            held["workspace"] = module._shared.workspace.data_ptr()

    with module.shared_workspace():
        CONV(**sample)
        mine = module._shared.workspace
        with pytest.raises(ZeroDivisionError), module.shared_workspace():
            CONV(**sample)
            assert module._shared.workspace is mine
            raise ZeroDivisionError
        assert module._shared.workspace is mine
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert held == {"before": False, "equal": True, "workspace": held["workspace"]}
        assert held["workspace"] != mine.data_ptr()
    assert not hasattr(module._shared, "workspace")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_opcheck_frozen_conv(dtype: torch.dtype) -> None:
    tuples = samples.frozen_conv.argument_tuples(dtype=dtype)
    for arguments in tuples if dtype == torch.float32 else tuples[1::6]:  # one reference serves the others
        torch.library.opcheck(CONV.default, arguments)


def test_the_shape_function_promises_the_real_strides() -> None:
    for arguments in samples.frozen_conv.argument_tuples():
        result, promise = CONV(*arguments), _library.OPERATORS["frozen_conv"].fake(*arguments)
        assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


def test_a_backward_through_it_says_where_the_gradient_is() -> None:
    sample = samples.frozen_conv.inputs()
    y = CONV(**sample | {"x": sample["x"].requires_grad_()})
    with pytest.raises(RuntimeError, match=r"frozen_conv: expected no backward .*the transposed kind"):
        y.sum().backward()


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("other", {}, "kind: expected one of same, same_transposed, upsample, upsample_transposed, got 'other'"),
        ("same", {"x": zeros(16, 4, 4)}, r"x: expected a floating-point tensor \[B, C, H, W\].*got"),
        ("same", {"x": zeros(1, 16, 0, 4)}, "x: expected .* at least one element a sample, got"),
        ("same", {"x": zeros(1, 16, 4, 4).int()}, "x: expected a floating-point tensor"),
        ("upsample_transposed", {"x": zeros(1, 16, 4, 3)}, "x: expected even height and width"),
        ("same", {"weight": zeros(16, 16, 5, 5)}, "weight: expected 3×3 taps for the 16 channels of x"),
        ("same", {"weight": zeros(16, 8, 3, 3)}, "weight: expected 3×3 taps for the 16 channels of x"),
        ("same_transposed", {"weight": zeros(8, 16, 3, 3)}, "weight: expected 3×3 taps for the 16 channels of x"),
        ("same", {"weight": zeros(0, 16, 3, 3)}, "weight: expected 3×3 taps"),
        ("same", {"weight": zeros(16, 16, 3, 3).double()}, "weight: .*in torch.float32, got torch.float64"),
        ("same", {"bias": zeros(8)}, r"bias: expected torch.float32 \[16\], got"),
        ("same_transposed", {"bias": zeros(16)}, r"bias: expected none \(same_transposed\), got one"),
        ("same", {"scale": zeros(1, 16)}, "shift: expected both of scale and shift or neither, got one"),
        ("same", {"scale": zeros(16), "shift": zeros(16)}, r"scale: expected torch.float32 \[1, 16\], got"),
        ("same", {"scale": zeros(1, 16), "shift": zeros(2, 16)}, r"shift: expected torch.float32 \[1, 16\], got"),
        ("upsample", {"addend": zeros(1, 16, 4, 4)}, r"addend: expected torch.float32 \[1, 16, 8, 8\], got"),
        ("same", {"addend": zeros(1, 16, 4, 4).double()}, "addend: expected torch.float32 .* got torch.float64"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_errors_name_the_argument(
    monkeypatch: Any, backend: str, kind: str, changes: dict[str, Tensor], words: str
) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    names = ("x", "weight", "bias", "scale", "shift", "addend")
    arguments: dict[str, Any] = dict.fromkeys(names) | {"x": zeros(1, 16, 4, 4), "weight": zeros(16, 16, 3, 3)}
    with pytest.raises(ValueError, match=f"^frozen_conv: {words}"):
        CONV(*(arguments | changes).values(), kind)
