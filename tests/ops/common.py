"""What the tests of the operators share: agreement with float64, host synchronisation, guarded buffers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ldp_fast import losses

from ..support import naive, samples
from ..support.tolerances import GRADIENT, OUTPUT, assert_close

GUARD = 64
SENTINEL = -777.0

# (shape, dtype, layout): every shape and every layout in every dtype, not every shape in every layout.
CASES = [(shape, dtype, "contiguous") for shape in samples.SHAPES for dtype in samples.DTYPES]
CASES += [(samples.SHAPES[2], dtype, layout) for layout in samples.LAYOUTS[1:] for dtype in samples.DTYPES]


def interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def launch_device() -> str:
    """Returns a device on which the launchers run here, or skips with the reason."""
    if torch.cuda.is_available():
        return "cuda"
    if interpreting():
        return "cpu"
    pytest.skip("launchers need a GPU, or TRITON_INTERPRET=1: run `TRITON_INTERPRET=1 LDP_FAST_BACKEND=triton pytest`")


def check_output(op: str, inputs: dict[str, Any]) -> Any:
    """Asserts that an operator agrees with its naive formula in float64, and returns what it returned."""
    result = getattr(losses, op)(**inputs)
    formula: Callable[..., Tensor] = getattr(naive, op)
    truth, eager = formula(**samples.widen(inputs)), formula(**inputs)
    assert_close(result[0] if isinstance(result, tuple) else result, eager, truth, factor=OUTPUT, what=op)
    return result


def gradient(function: Callable[..., Tensor], inputs: dict[str, Any], upstream: float = 1.0) -> Tensor:
    """Returns the gradient on the latents of a scalar result, or of an unevenly weighted sum of a tensor."""
    latents = inputs["latents"].detach().requires_grad_()
    result = function(**{**inputs, "latents": latents})
    total = result if result.dim() == 0 else (result * weights_like(result)).sum()
    (grad,) = torch.autograd.grad(total * upstream, latents)
    return grad


def weights_like(tensor: Tensor) -> Tensor:
    """Returns fixed factors that make an uneven incoming gradient."""
    values = torch.linspace(-1, 1, max(tensor.numel(), 1), dtype=torch.float64)[: tensor.numel()]
    return values.view(tensor.shape).to(tensor)


def check_gradient(
    op: str, inputs: dict[str, Any], formula: Callable[..., Tensor], upstream: float = 1.0, condition: float = 1.0
) -> Tensor:
    """Asserts that an operator's gradient agrees with the gradient of a formula in float64."""
    grad = gradient(getattr(losses, op), inputs, upstream)
    truth, eager = gradient(formula, samples.widen(inputs), upstream), gradient(formula, inputs, upstream)
    assert grad.dtype == inputs["latents"].dtype
    assert_close(grad, eager, truth, factor=GRADIENT, what=f"gradient of {op}", condition=condition)
    return grad


def bitwise_equal(a: Tensor, b: Tensor) -> bool:
    """Returns whether two tensors have the same bits, NaN included."""
    return a.shape == b.shape and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


class NoSync(TorchDispatchMode):
    """Raises where a program would wait for a GPU: reads of values, data-dependent shapes, copies to the host."""

    forbidden = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.forbidden:
            raise AssertionError(f"{func} waits for the device")
        if name == "_to_copy" and (kwargs or {}).get("device") is not None:
            raise AssertionError(f"{func} copies between devices")
        return func(*args, **(kwargs or {}))


def guarded(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, Callable[[], None]]:
    """Returns a NaN-filled output inside a larger buffer, and a function that asserts nothing around it was touched."""
    count = torch.Size(shape).numel()
    integer = not dtype.is_floating_point
    buffer = torch.full((count + 2 * GUARD,), int(SENTINEL) if integer else SENTINEL, dtype=dtype, device=device)
    buffer[GUARD : GUARD + count] = torch.iinfo(dtype).max if integer else float("nan")

    def check() -> None:
        edges = torch.cat([buffer[:GUARD], buffer[GUARD + count :]])
        assert (edges == edges.new_tensor(SENTINEL)).all(), "written outside the output"
        inside = buffer[GUARD : GUARD + count]
        left = (inside == torch.iinfo(dtype).max) if integer else inside.isnan()
        assert not left.any(), "elements of the output were left unwritten"

    return buffer[GUARD : GUARD + count].view(shape), check


def check_launcher(launcher: Callable[..., None], fake_outputs: Any, arguments: tuple[Any, ...]) -> list[Tensor]:
    """Runs a launcher into guarded buffers shaped like `fake_outputs` and returns them."""
    outputs = fake_outputs if isinstance(fake_outputs, tuple) else (fake_outputs,)
    made = [guarded(tuple(x.shape), x.dtype, x.device.type) for x in outputs]
    launcher(*(tensor for tensor, _ in made), *arguments)
    for _, check in made:
        check()
    return [tensor for tensor, _ in made]


def case_inputs(op: str, case: tuple[samples.Shape, torch.dtype, str], **options: Any) -> dict[str, Any]:
    """Returns the sample of an operator for one of `CASES`."""
    shape, dtype, layout = case
    return samples.inputs(op, shape=shape, dtype=dtype, layout=layout, **options)


def case_id(case: tuple[samples.Shape, torch.dtype, str]) -> str:
    shape, dtype, layout = case
    return f"{'x'.join(map(str, shape))}-{str(dtype).removeprefix('torch.')}-{layout}"
