"""The launchers and native code of group norm by themselves: nothing is written beside the outputs, whatever the tiles;
and what only a GPU can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldp_fast.ops import _library, _native
from ldp_fast.reference import group_norm_silu as reference

from ..support import samples
from ..support.gpu import MANY, needs_memory, size
from ..support.tolerances import GRADIENT, OUTPUT, assert_close
from .common import NoSync, bitwise_equal, guarded, launch_device

OPS = torch.ops.ldp_fast
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
Run = Callable[..., None]


def launchers() -> tuple[Run, Run, Run]:
    from ldp_fast.kernels import group_norm_moments, group_norm_silu

    return group_norm_moments.moments, group_norm_silu.forward, group_norm_silu.backward


def native() -> tuple[Run, Run, Run]:
    if _native.extension() is None:
        pytest.skip("needs the compiled extension")
    names = ("group_norm_moments", "group_norm_silu", "group_norm_silu_backward")
    moments, forward, backward = (_library.OPERATORS[name].native for name in names)
    assert moments is not None and forward is not None and backward is not None
    return moments, forward, backward


def run_guarded(runs: tuple[Run, Run, Run], sample: dict[str, Any], groups: int) -> list[Tensor]:
    """Moments, output and gradient, in poisoned outputs between sentinels."""
    x, device, checks = sample["x"], sample["x"].device.type, []

    def output(*shape: int, dtype: torch.dtype) -> Tensor:
        tensor, check = guarded(shape, dtype, device)
        checks.append(check)
        return tensor

    def image() -> Tensor:
        batch, channels, height, width = x.shape
        return output(batch, height, width, channels, dtype=x.dtype).permute(0, 3, 1, 2)

    moments = [output(x.shape[0], groups, dtype=torch.float32) for _ in range(2)]
    runs[0](*moments, x, groups, samples.group_norm_silu.EPS)
    arguments = (*moments, sample["weight"], sample["bias"], True)
    y, grad = image(), image()
    runs[1](y, x, *arguments)
    more = (sample["addend"], samples.group_norm_silu.signs(x)[0], 0.5) if x.shape[0] % 2 == 0 else ()
    runs[2](grad, sample["grad"], x, *arguments, *more)
    for check in checks:
        check()
    return [*moments, y, grad]


def check_against_reference(results: list[Tensor], sample: dict[str, Any], groups: int) -> None:
    x, more = sample["x"], ()
    if x.shape[0] % 2 == 0:
        more = (sample["addend"], samples.group_norm_silu.signs(x)[0], 0.5)
    moments = reference.group_norm_moments(x, groups, samples.group_norm_silu.EPS)
    arguments = (*moments, sample["weight"], sample["bias"], True)
    expected = [*moments, reference.group_norm_silu(x, *arguments)]
    expected += [reference.group_norm_silu_backward(sample["grad"], x, *arguments, *more)]
    for result, other in zip(results, expected, strict=True):
        # The interpreter cuts bfloat16 off where others round.
        torch.testing.assert_close(result, other, rtol=2 * torch.finfo(result.dtype).eps + 2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("shape", "groups", "dtype", "layout"),
    samples.group_norm_silu.crossed(
        *((dtype, "channels_last") for dtype in samples.DTYPES[::-1]), (torch.float16, "misaligned")
    ),
    ids=str,
)
def test_launchers_write_their_outputs_and_nothing_else(
    shape: samples.Shape, groups: int, dtype: torch.dtype, layout: str
) -> None:
    sample = samples.group_norm_silu.inputs(shape, dtype=dtype, device=launch_device(), layout=layout)
    check_against_reference(run_guarded(launchers(), sample, groups), sample, groups)


@pytest.mark.parametrize("dtype", samples.DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "groups"), samples.group_norm_silu.CASES, ids=str)
def test_native_code_writes_its_outputs_and_nothing_else(shape: samples.Shape, groups: int, dtype: torch.dtype) -> None:
    sample = samples.group_norm_silu.inputs(shape, dtype=dtype)
    check_against_reference(run_guarded(native(), sample, groups), sample, groups)


@pytest.mark.parametrize("programs", [1, 3, 1000])
def test_any_number_of_tiles_a_program(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    device = launch_device()
    from ldp_fast.kernels import group_norm_moments

    monkeypatch.setattr(group_norm_moments, "PROGRAMS", programs)
    for shape, dtype in (((2, 64, 17, 19), torch.float32), ((1, 4, 60, 70), torch.float16)):
        sample = samples.group_norm_silu.inputs(shape, dtype=dtype, device=device)
        check_against_reference(run_guarded(launchers(), sample, 4), sample, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", samples.DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 512, 32, 32), (2, 256, 96, 80), (2, 128, 64, 64)], ids=str)
def test_on_the_gpu(shape: samples.Shape, dtype: torch.dtype) -> None:
    """Against float64 by the rule, without waiting, twice the same bits."""
    sample = samples.group_norm_silu.inputs(shape, dtype=dtype, device="cuda")
    x, affine, groups = sample["x"], (sample["weight"], sample["bias"]), 32
    packed, signs = samples.group_norm_silu.signs(x)

    def ours() -> tuple[Tensor, Tensor]:
        arguments = (*OPS.group_norm_moments(x, groups, samples.group_norm_silu.EPS), *affine, True)
        y = OPS.group_norm_silu(x, *arguments)
        return y, OPS.group_norm_silu_backward(sample["grad"], x, *arguments, sample["addend"], packed, 0.5)

    def textbook(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        wide = {name: value.to(dtype) for name, value in sample.items()}
        leaf = wide["x"].detach().requires_grad_()
        y = torch.nn.functional.group_norm(leaf, groups, wide["weight"], wide["bias"], samples.group_norm_silu.EPS)
        y = torch.nn.functional.silu(y)
        (grad,) = torch.autograd.grad(y, leaf, wide["grad"])
        return y.detach(), grad + wide["addend"] + 0.5 * torch.cat([signs, -signs]).to(dtype)

    ours()
    with NoSync():
        results = ours()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = ours()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(bitwise_equal(a, b) for a, b in zip(results, again, strict=True))
    pairs = zip(results, textbook(dtype), textbook(torch.float64), (OUTPUT, GRADIENT), strict=True)
    for result, eager, truth, factor in pairs:
        assert_close(result, eager, truth, factor=factor, what=str(shape))


@pytest.mark.gpu
@pytest.mark.real_size
def test_more_elements_than_a_32_bit_index() -> None:
    needs_memory(24)
    x = torch.zeros((1, 256, *size((2048, 4224), (8, 9))), dtype=torch.float16, device="cuda").to(
        memory_format=torch.channels_last
    )
    assert x.numel() > MANY
    flat = x.permute(0, 2, 3, 1).view(-1)
    marks = [(0, 100.0), (MANY - 1, 200.0), (MANY, 300.0), (x.numel() - 1, 400.0)]
    for index, value in marks:
        flat[index] = value
    mean, rstd = OPS.group_norm_moments(x, 256, samples.group_norm_silu.EPS)
    y = OPS.group_norm_silu(x, mean, rstd, None, None, False).permute(0, 2, 3, 1).view(-1)
    for index, value in marks:
        channel = index % 256
        expected = (value - float(mean[0, channel])) * float(rstd[0, channel])
        assert float(y[index]) == pytest.approx(expected, rel=1e-3)
    grad = OPS.group_norm_silu_backward(torch.zeros_like(x), x, mean, rstd, None, None, False, x)
    assert torch.equal(grad, x)
