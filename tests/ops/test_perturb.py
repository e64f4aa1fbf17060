"""perturb: z_t = α v + σ ε into the network's batch and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldp_fast.losses import perturb

from ..support import samples
from ..support.gpu import MANY, needs_memory, size
from .common import CASES, case_id, case_inputs, check_launcher, check_output, launch_device


@pytest.mark.parametrize("case", CASES, ids=case_id)
@pytest.mark.parametrize("copies", [1, 2])
def test_agrees_with_float64(case, copies: int, poisoned: None) -> None:
    inputs = case_inputs("perturb", case, copies=copies)
    z = check_output("perturb", inputs)
    assert z.dtype == inputs["latents"].dtype and not z.requires_grad


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("target", samples.DTYPES)
def test_writes_the_dtype_asked_for(dtype: torch.dtype, target: torch.dtype) -> None:
    z = check_output("perturb", samples.perturb.inputs(dtype=dtype) | {"dtype": target, "copies": 2})
    assert z.dtype == target


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "mixed"])
def test_memory_format_follows_the_latents(layout: str) -> None:
    inputs = samples.perturb.inputs(layout=layout)
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert perturb(**inputs, copies=2).is_contiguous(memory_format=wanted)


def test_copies_are_equal_and_in_order() -> None:
    inputs = samples.perturb.inputs(shape=(3, 4, 8, 8))
    z = perturb(**inputs, copies=3)
    for copy in z.split(3):
        assert torch.equal(copy, perturb(**inputs))


def test_numbers_and_scalars_are_coefficients() -> None:
    inputs = samples.perturb.inputs()
    for value in (0.5, torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64)):
        inputs["alpha"] = value
        z = perturb(**inputs)
        inputs["alpha"] = torch.full((2,), 0.5)
        assert torch.equal(z, perturb(**inputs))


def test_float64_is_computed_in_float64() -> None:
    z = check_output("perturb", samples.perturb.inputs(dtype=torch.float64))
    assert z.dtype == torch.float64


@given(
    shape=st.tuples(st.integers(0, 3), st.sampled_from([1, 4, 16]), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(samples.DTYPES),
    layout=st.sampled_from(samples.LAYOUTS),
    magnitude=st.sampled_from([1e-3, 1.0, 1e3]),
    copies=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=25)
def test_any_shape_dtype_layout_and_magnitude(shape, dtype, layout, magnitude, copies, seed) -> None:
    inputs = samples.perturb.inputs(shape=shape, dtype=dtype, layout=layout, magnitude=magnitude, seed=seed)
    check_output("perturb", inputs | {"copies": copies})


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (3, 16, 5, 7), (2, 1, 1, 1030)])
def test_launcher_writes_its_output_and_nothing_else(shape) -> None:
    from ldp_fast.kernels.perturb import perturb as launcher

    inputs = samples.perturb.inputs(shape=shape, device=launch_device())
    out = inputs["latents"].new_empty((2 * shape[0], *shape[1:]))
    (result,) = check_launcher(launcher, out, (*inputs.values(), 2))
    assert torch.equal(result, perturb(**inputs, copies=2))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"latents": torch.zeros(4, 8, 8)}, ValueError, "perturb: latents: expected shape"),
        ({"latents": torch.zeros(2, 4, 0, 8)}, ValueError, "at least one element"),
        ({"latents": torch.zeros(2, 4, 8, 8, dtype=torch.int32)}, TypeError, "torch.int32"),
        ({"noise": torch.zeros(1, 4, 8, 8)}, ValueError, "perturb: noise: expected the shape of latents"),
        ({"noise": torch.zeros(2, 4, 8, 8, device="meta")}, ValueError, "device of latents"),
        ({"noise": None}, TypeError, "expected a tensor, got NoneType"),
        ({"alpha": torch.ones(3)}, ValueError, r"alpha: expected a number or a tensor of shape \[2\]"),
        ({"alpha": torch.ones(2, dtype=torch.float16)}, TypeError, "alpha: expected float32"),
        ({"sigma": "0.5"}, TypeError, "sigma: expected a number or a tensor, got str"),
        ({"copies": 0}, ValueError, "copies: expected at least 1, got 0"),
        ({"dtype": torch.int64}, TypeError, "dtype: expected float16"),
    ],
)
def test_wrong_arguments_are_named(change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        perturb(**samples.perturb.inputs() | change)


@pytest.mark.gpu
@pytest.mark.real_size
def test_more_elements_than_32_bits_count() -> None:
    needs_memory(24)
    side = size(512, 4)
    shape = (MANY // (16 * side * side) + 1, 16, side, side)
    latents = torch.zeros(shape, dtype=torch.float16, device="cuda")
    noise = torch.ones_like(latents[:1]).expand(shape)
    sigma = torch.arange(shape[0], device="cuda", dtype=torch.float32)
    z = perturb(latents, noise, 1.0, sigma)
    assert torch.equal(z.amax((1, 2, 3)).float(), sigma) and torch.equal(z.amin((1, 2, 3)).float(), sigma)
