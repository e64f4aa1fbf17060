"""Compositing: against its definition in NumPy, gradients against autograd and finite differences, stops, NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldp_fast import reference
from ldp_fast.ops import _library, _native

from ..support import naive_composite as naive
from ..support import samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import bitwise_equal

CASES: list[dict[str, Any]] = [
    {},
    {"channels": 1, "background": False},
    {"channels": 7, "density": 60.0, "early_stop": 1e-4},
    {"channels": 64, "early_stop": 0.3, "emptiness_scale": 0.0},
    {"density": 60.0, "early_stop": 0.97, "padding": 0},
    {"density": 1e-4},  # everything is nearly transparent
    {"counts": (5,)},
    {"counts": (0, 0)},
    {"counts": ()},
    {"counts": (1,), "padding": 0},
    {"counts": (1100, 3), "density": 0.2, "channels": 2},
]


def composite(**inputs: Any) -> tuple[Tensor, ...]:
    return torch.ops.ldp_fast.composite(*inputs.values())


def eager(**inputs: Any) -> tuple[Tensor, ...]:
    return reference.composite(*inputs.values())


def check_outputs(inputs: dict[str, Any]) -> None:
    truth, plain = naive.textbook(**samples.widen(inputs)), naive.textbook(**inputs)
    for name, got, theirs, true in zip(naive.NAMES, composite(**inputs), plain, truth, strict=True):
        assert got.dtype == torch.float32
        assert_close(got, theirs, true, factor=OUTPUT, what=name)


def check_gradients(inputs: dict[str, Any], which: int) -> None:
    found = naive.gradients(composite, inputs, which)
    truth, plain = (
        naive.gradients(naive.textbook, samples.widen(inputs), which),
        naive.gradients(naive.textbook, inputs, which),
    )
    for place, (got, theirs, true) in enumerate(zip(found, plain, truth, strict=True)):
        # A weight's gradient times what is behind it, minus a sum over all weights behind: they may cancel.
        assert_close(got, theirs, true, factor=GRADIENT, what=f"gradient {place} of {which}", condition=8.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_the_definition(case: dict[str, Any]) -> None:
    inputs = samples.widen(samples.composite.inputs(**case))
    for name, got, loop in zip(naive.NAMES, composite(**inputs), naive.loop(**inputs), strict=True):
        np.testing.assert_allclose(got.numpy(), loop, rtol=1e-11, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_agrees_with_float64(case: dict[str, Any], poisoned: None) -> None:
    check_outputs(samples.composite.inputs(**case))


@pytest.mark.parametrize("which", [63, 1, 2, 4, 8, 16, 32], ids=["all", *naive.NAMES])
@pytest.mark.parametrize("case", CASES[:7], ids=str)
def test_gradients_agree_with_float64(case: dict[str, Any], which: int, poisoned: None) -> None:
    check_gradients(samples.composite.inputs(**case), which)


@pytest.mark.parametrize("early_stop", [0.0, 0.6])
def test_gradcheck(early_stop: float) -> None:
    inputs = samples.composite.inputs(
        (0, 3, 6), channels=2, density=30.0, padding=0, early_stop=early_stop, dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda *x: composite(**dict(zip(inputs, x, strict=True))), tuple(inputs.values()))


def test_the_extension_and_the_reference_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = samples.composite.inputs(density=20.0, early_stop=1e-4)
    assert _native.extension() is not None, "the extension is not built"
    native, grads = composite(**inputs), naive.gradients(composite, inputs, 63)
    monkeypatch.setenv("LDP_FAST_BACKEND", "reference")
    for a, b in zip([*native, *grads], [*composite(**inputs), *naive.gradients(composite, inputs, 63)], strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
        assert not torch.equal(a, b) or a.numel() < 100 or a.count_nonzero() < 100, "the same backend twice"


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 70), max_size=6),
    channels=st.integers(1, 9),
    density=st.sampled_from([0.0, 1e-3, 1.0, 50.0, 1e4]),
    background=st.booleans(),
    padding=st.integers(0, 40),
    seed=st.integers(0, 1000),
)
def test_any_rays(counts: list[int], channels: int, density: float, background: bool, padding: int, seed: int) -> None:
    inputs = samples.composite.inputs(
        counts, channels=channels, density=density, background=background, padding=padding, seed=seed
    )
    check_outputs(inputs)
    values, opacity, _, weights, distortion, emptiness = composite(**inputs)
    assert (weights >= 0).all() and (opacity <= 1 + 1e-6).all() and (distortion >= 0).all() and (emptiness >= 0).all()
    assert values.shape == (len(counts), channels)
    assert not weights[sum(counts) :].any()


def test_an_empty_ray_shows_its_background() -> None:
    inputs = samples.composite.inputs((0, 3, 0))
    values, opacity, depth, *_ = composite(**inputs)
    assert torch.equal(values[[0, 2]], inputs["background"][[0, 2]])
    assert not opacity[[0, 2]].any() and not depth[[0, 2]].any()


def test_samples_behind_the_stop_do_not_matter() -> None:
    """The first sample with T < early_stop and all behind it have no weight, no gradient, and may hold anything."""
    inputs = samples.composite.inputs((70, 4), early_stop=1e-4)
    inputs["density"][40] = 1e6
    before, grads = composite(**inputs), naive.gradients(composite, inputs, 63)
    for name in ("density", "values"):
        inputs[name][41:70] = float("nan")
    after, grads_after = composite(**inputs), naive.gradients(composite, inputs, 63)
    assert all(bitwise_equal(a, b) for a, b in zip(before, after, strict=True))
    assert not before[3][41:70].any() and before[3][40] > 0
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_after, strict=True))
    assert not grads[0][41:70].any() and not grads[1][41:70].any()


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("early_stop", [0.0, 1e-4])
def test_nan_shows_in_its_ray_and_in_no_other(early_stop: float, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    inputs = samples.composite.inputs((40, 40, 40), early_stop=early_stop)
    clean, clean_grads = composite(**inputs), naive.gradients(composite, inputs, 63)
    inputs["density"][45] = float("nan")
    result, grads = composite(**inputs), naive.gradients(composite, inputs, 63)
    for name, got, before in zip(naive.NAMES, result, clean, strict=True):
        if name != "weights":
            assert got[1].isnan().all(), name
            assert torch.equal(got[[0, 2]], before[[0, 2]]), name
    assert torch.equal(result[3][:45], clean[3][:45]) and result[3][45:80].isnan().all()
    assert grads[0][40:80].isnan().all() and torch.equal(grads[0][:40], clean_grads[0][:40])
    assert torch.equal(grads[0][80:], clean_grads[0][80:])


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("early_stop", [0.0, 1e-4])
def test_an_opaque_sample_has_finite_gradients(
    early_stop: float, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", backend)
    inputs = samples.composite.inputs((40,), early_stop=early_stop, padding=0)
    inputs["density"][20] = float("inf")
    assert all(x.isfinite().all() for x in [*composite(**inputs), *naive.gradients(composite, inputs, 63)])
    assert composite(**inputs)[1] == 1


def test_the_distortion_keeps_its_digits_far_away() -> None:
    """Only differences of distances enter: a scene a thousand units away is as good as one at the camera."""
    inputs = samples.composite.inputs((64,), padding=0, density=20.0)
    near = composite(**inputs)[4]
    inputs["distances"] = (inputs["distances"] * 1024).round() / 1024
    exact, moved = composite(**inputs)[4], composite(**inputs | {"distances": inputs["distances"] + 1000})[4]
    torch.testing.assert_close(moved, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(near, exact, rtol=1e-2, atol=0)


def test_no_gradient_to_distances_and_steps() -> None:
    inputs = samples.composite.inputs(requires_grad=True)
    for name in ("distances", "steps"):
        inputs[name].requires_grad_()
    sum(x.nansum() for x in composite(**inputs)).backward()
    assert inputs["distances"].grad is None and inputs["steps"].grad is None and inputs["density"].grad is not None


def test_only_what_is_wanted_gets_a_gradient() -> None:
    inputs = samples.composite.inputs()
    inputs["values"].requires_grad_()
    composite(**inputs)[0].sum().backward()
    assert inputs["values"].grad is not None and inputs["density"].grad is None


def test_the_same_bits_every_time() -> None:
    inputs = samples.composite.inputs((200,) * 300, early_stop=1e-4, density=30.0)
    first = [*composite(**inputs), *naive.gradients(composite, inputs, 63)]
    for _ in range(3):
        again = [*composite(**inputs), *naive.gradients(composite, inputs, 63)]
        assert all(bitwise_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        *(({}, dtype) for dtype in (torch.float32, torch.float64, torch.float16)),
        ({"background": False, "channels": 1}, torch.float32),
        ({"counts": (), "padding": 0}, torch.float32),
    ],
    ids=str,
)
def test_opcheck(case: dict[str, Any], dtype: torch.dtype) -> None:
    inputs = samples.composite.inputs(
        **{"counts": (3, 0, 34), **case}, dtype=dtype, requires_grad=True, early_stop=1e-4
    )
    inputs["density"].data.nan_to_num_(), inputs["values"].data.nan_to_num_()
    torch.library.opcheck(torch.ops.ldp_fast.composite.default, tuple(inputs.values()))
    for which in (63, 1, 24):
        torch.library.opcheck(
            torch.ops.ldp_fast.composite_backward.default, samples.composite.backward_arguments(inputs, which)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_shape_functions_promise_the_real_strides(dtype: torch.dtype) -> None:
    inputs = samples.composite.inputs((3, 0, 34), dtype=dtype)
    for name, arguments in (
        ("composite", tuple(inputs.values())),
        ("composite_backward", samples.composite.backward_arguments(inputs)),
    ):
        results = getattr(torch.ops.ldp_fast, name)(*arguments)
        for result, promise in zip(results, _library.OPERATORS[name].fake(*arguments), strict=True):
            assert (result.shape, result.stride(), result.dtype) == (promise.shape, promise.stride(), promise.dtype)


def test_strided_inputs_and_expanded_gradients() -> None:
    inputs = samples.composite.inputs((9, 40), requires_grad=True, padding=0)
    wide = torch.cat([inputs["density"].detach()[:, None], inputs["values"].detach()], 1).requires_grad_()
    sliced = inputs | {"density": wide[:, 0], "values": wide[:, 1:]}
    composite(**inputs)[0].sum().backward()
    composite(**sliced)[0].sum().backward()
    assert torch.equal(wide.grad[:, 0], inputs["density"].grad) and torch.equal(wide.grad[:, 1:], inputs["values"].grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": torch.zeros(5, 4)}, r"composite: values: expected shape \[370, 4\], got \[5, 4\]"),
        ({"values": torch.zeros(370, 65)}, "composite: values: expected 1 to 64 channels, got 65"),
        ({"ray_offsets": torch.zeros(11, dtype=torch.int32)}, "composite: ray_offsets: expected int64"),
        ({"background": torch.zeros(3, 4)}, r"composite: background: expected shape \[10, 4\], got \[3, 4\]"),
        ({"steps": torch.zeros(3)}, r"composite: steps: expected shape \[370\], got \[3\]"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        composite(**samples.composite.inputs() | change)


def test_no_second_derivative() -> None:
    inputs = samples.composite.inputs(requires_grad=True, padding=0)
    (grad,) = torch.autograd.grad(composite(**inputs)[0].sum(), inputs["density"], create_graph=True)
    with pytest.raises(RuntimeError, match="composite can be differentiated once, not twice"):
        grad.sum().backward()
