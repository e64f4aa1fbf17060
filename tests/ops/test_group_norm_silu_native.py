"""What native code alone does of group norm and SiLU: bits, rounding, and which tensors are its."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ldp_fast import _settings
from ldp_fast.ops import _library, _native

from ..support import samples
from .common import bitwise_equal

OPS = torch.ops.ldp_fast
NAMES = ("group_norm_moments", "group_norm_silu", "group_norm_silu_backward")

pytestmark = [
    pytest.mark.skipif(_native.extension() is None, reason="needs the compiled extension"),
    # As of the others: numpy speaks up in lanes past the end of a sample.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
]


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_for_any_number_of_threads(dtype: torch.dtype, layout: str, monkeypatch: Any) -> None:
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    sample = samples.group_norm_silu.inputs((2, 24, 60, 57), dtype=dtype, layout=layout)
    packed = samples.group_norm_silu.signs(sample["x"])[0]
    threads, runs = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            moments = OPS.group_norm_moments(sample["x"], 8, samples.group_norm_silu.EPS)
            arguments = (*moments, sample["weight"], sample["bias"], True)
            y = OPS.group_norm_silu(sample["x"], *arguments)
            more = (sample["addend"], packed if layout == "channels_last" else None, 0.5)
            grad = OPS.group_norm_silu_backward(sample["grad"], sample["x"], *arguments, *more)
            runs.append((*moments, y, grad))
    finally:
        torch.set_num_threads(threads)
    assert all(bitwise_equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [128, 4])
def test_two_bytes_are_read_exactly_and_rounded_as_torch_does(
    channels: int, dtype: torch.dtype, monkeypatch: Any
) -> None:
    """Every number there is times one with more digits: ties, overflow, subnormal numbers, infinities, NaN."""
    monkeypatch.setenv("LDP_FAST_BACKEND", "auto")
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    # Whole rows, and a rest that is not a whole row.
    pixels = torch.cat([every, every[: 13 * channels]]).view(1, 1, -1, channels)
    x, mean = pixels.permute(0, 3, 1, 2), torch.zeros(1, 1)
    for factor in (1.0, 1.5, 1 + 2**-9, 1 + 2**-12, 1 / 3, 2.0**-9, 3 * 2.0**-10):
        y = OPS.group_norm_silu(x, mean, torch.full((1, 1), factor), None, None, False)
        expected = (x.float() * factor).to(dtype)
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_launcher_and_native_code_share_an_operator(name: str, monkeypatch: Any) -> None:
    """Native code for two and four bytes on a CPU, the reference for eight, the launcher for the interpreter."""
    operator, called = _library.OPERATORS[name], []

    def spy(kind: str, function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            called.append(kind)
            return function(*arguments)

        return run

    launch = _library._launcher
    monkeypatch.setattr(operator, "native", spy("native", operator.native))
    monkeypatch.setattr(operator, "reference", spy("reference", operator.reference))
    monkeypatch.setattr(_library, "_launcher", lambda path: spy("launcher", launch(path)))
    by_dtype = {
        dtype: samples.group_norm_silu.argument_tuples(name, dtype=dtype)[0]
        for dtype in (*samples.DTYPES, torch.float64)
    }
    expected = [("auto", dtype, "native") for dtype in samples.DTYPES] + [("auto", torch.float64, "reference")]
    expected += [("reference", dtype, "reference") for dtype in samples.DTYPES]
    if _settings.interpreting():
        expected += [("triton", torch.float32, "launcher"), ("triton", torch.float16, "launcher")]
    for backend, dtype, kind in expected:
        monkeypatch.setenv("LDP_FAST_BACKEND", backend)
        called.clear()
        getattr(OPS, name)(*by_dtype[dtype])
        assert called == [kind], (backend, dtype)
