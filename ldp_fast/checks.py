"""Checks of arguments: one sentence that names who was called, the argument, what was expected and what came.

Only shapes, dtypes and devices of tensors are looked at, never values on a GPU, except in `raise_nonfinite`, which says
so. First what every room asks for, then what the losses ask of latents and of their coefficients.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import torch
from torch import Tensor

Coefficient = Tensor | float

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
FULL_PRECISION = (torch.float32, torch.float64)
BatchReduction = Literal["mean", "sum"]
NonFinite = Literal["propagate", "zero", "raise"]
BATCH_REDUCTIONS = get_args(BatchReduction)
NONFINITE = get_args(NonFinite)


def fail(what: str, argument: str, expected: str, got: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises the sentence."""
    raise error(f"{what}: {argument}: expected {expected}, got {got}")


def shape_text(tensor: Tensor) -> str:
    """A shape for people: `[2, 4, 64, 64]`."""
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def choice(what: str, argument: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of the known options.

    Raises:
        ValueError: it is not one of them.
    """
    if value not in choices:
        fail(what, argument, f"one of {', '.join(map(repr, choices))}", repr(value))
    return value


def flag(what: str, argument: str, value: Any) -> bool:
    """Returns a truth value, Python's or NumPy's.

    Raises:
        TypeError: it is not a truth value.
    """
    if not isinstance(value, (bool, np.bool_)):
        fail(what, argument, "True or False", repr(value), TypeError)
    return bool(value)


def whole(what: str, argument: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns a whole number of a range, Python's or NumPy's, as an int.

    Raises:
        ValueError: it is not a whole number, or outside.
    """
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number of {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
        fail(what, argument, wanted, repr(value))
    whole_number = value if isinstance(value, int) else int(value)
    if whole_number < low or (high is not None and whole_number > high):
        fail(what, argument, wanted, str(value))
    return whole_number


def is_real(value: Any) -> bool:
    """Whether a value is a real number, Python's or NumPy's; truth values are not."""
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def number(what: str, argument: str, value: Any, low: float = -math.inf, *, open_low: bool = False) -> float:
    """Returns a finite number of at least (or above) `low`, as a float.

    Raises:
        ValueError: it is not a number, not finite, or too small.
    """
    bound = "" if low == -math.inf else f" {'above' if open_low else 'of at least'} {low:g}"
    if not (is_real(value) and math.isfinite(value)) or value < low or (open_low and value == low):
        fail(what, argument, f"a finite number{bound}", repr(value))
    return float(value)


def values(what: str, argument: str, given: Any, expected: str, dtype: torch.dtype) -> Tensor:
    """Returns numbers, sequences of them, arrays or tensors as a tensor on the CPU, without gradients.

    Raises:
        ValueError: it is something else.
    """
    try:
        return torch.as_tensor(given, dtype=dtype, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        fail(what, argument, expected, repr(given))


def tensor(what: str, argument: str, value: Any, shape: Sequence[int | str], like: Tensor | None = None) -> None:
    """Checks a float32 or float64 tensor of a shape; a word in the shape stands for any size.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: another shape, or on another device than `like`.
    """
    if not isinstance(value, Tensor):
        fail(what, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in FULL_PRECISION:
        fail(what, argument, "float32 or float64", str(value.dtype), TypeError)
    matches = value.dim() == len(shape) and all(
        isinstance(want, str) or have == want for have, want in zip(value.shape, shape, strict=True)
    )
    if not matches:
        fail(what, argument, f"shape [{', '.join(str(size) for size in shape)}]", shape_text(value))
    if like is not None and value.device != like.device:
        fail(what, argument, f"a tensor on {like.device}", f"one on {value.device}")


def positions(what: str, value: Any, table: Tensor) -> None:
    """Checks positions [S, 3] of a table's dtype, on its device.

    Raises:
        TypeError, ValueError: as `tensor`, and for another dtype than the table's.
    """
    tensor(what, "positions", value, ("S", 3), table)
    if value.dtype != table.dtype:
        fail(what, "positions", f"the table's dtype, {table.dtype}", str(value.dtype), TypeError)


def memory(tensor: Tensor) -> np.ndarray | None:
    """Returns the memory of a tensor on the CPU, to look at its values without calling an operator of PyTorch.

    None if there are no values to look at, or if that would wait for a device: on a GPU, while compiling, and
    for the tensors of `torch.func` and of tracing.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu" or type(tensor) not in (Tensor, torch.nn.Parameter):
        return None
    try:
        return tensor.detach().numpy()
    except RuntimeError:
        return None


def floating(op: str, argument: str, value: Tensor) -> None:
    """Checks for a floating tensor on a device that the operators serve.

    Raises:
        TypeError: no tensor, or of a dtype other than float16, bfloat16, float32, float64.
        ValueError: on a device other than CPU and CUDA.
    """
    if not isinstance(value, Tensor):
        fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in FLOATING:
        fail(op, argument, "float16, bfloat16, float32 or float64", str(value.dtype), TypeError)
    if value.device.type not in ("cpu", "cuda", "meta"):
        fail(op, argument, "a tensor on a CPU or CUDA device", f"one on {value.device}")


def latents(op: str, argument: str, value: Tensor) -> None:
    """Checks for latents: floating, [B, C, H, W], no empty sample (an empty batch is fine).

    Raises:
        TypeError: no floating tensor.
        ValueError: another rank, or samples without elements.
    """
    floating(op, argument, value)
    if value.dim() != 4:
        fail(op, argument, "shape [B, C, H, W]", shape_text(value))
    if 0 in value.shape[1:]:
        fail(op, argument, "at least one element per sample", shape_text(value))


def like(op: str, argument: str, value: Tensor, other_argument: str, other: Tensor) -> None:
    """Checks for a floating tensor of the same shape and on the same device as another; dtypes may differ.

    Raises:
        TypeError: no floating tensor.
        ValueError: another shape or device.
    """
    floating(op, argument, value)
    if value.shape != other.shape:
        fail(op, argument, f"the shape of {other_argument}, {shape_text(other)}", shape_text(value))
    same_device(op, argument, value, other_argument, other)


def same_device(op: str, argument: str, value: Tensor, other_argument: str, other: Tensor) -> None:
    """Checks that two tensors are on the same device.

    Raises:
        ValueError: they are not.
    """
    if value.device != other.device:
        fail(op, argument, f"a tensor on the device of {other_argument}, {other.device}", f"one on {value.device}")


def network_output(op: str, value: Tensor, like: Tensor, rows: int, why: str) -> None:
    """Checks what a network returned: so many rows of the shape of `like`.

    Raises:
        TypeError: no floating tensor.
        ValueError: another shape or device; a learned variance is named.
    """
    argument, (channels, height, width) = "model_output", like.shape[1:]
    latents(op, argument, value)
    same_device(op, argument, value, "noise", like)
    wanted = f"[{rows}, {channels}, {height}, {width}] ({why})"
    if tuple(value.shape) == (rows, 2 * channels, height, width):
        fail(op, argument, wanted, f"{2 * channels} channels: a learned variance? pass model_output[:, :{channels}]")
    if tuple(value.shape) != (rows, channels, height, width):
        fail(op, argument, wanted, shape_text(value))


def table(op: str, argument: str, value: Tensor, axes: str, like: Tensor) -> None:
    """Checks a table of numbers for each sample, at least one.

    Args:
        op: name of the operator, for messages.
        argument: name of the argument, for messages.
        value: float32 or float64  # [B, K]
        axes: names of the axes, for messages: "B, K".
        like: tensor [B, ...] that gives batch and device.

    Raises:
        TypeError: no float32 or float64 tensor.
        ValueError: another shape or device.
    """
    if not isinstance(value, Tensor):
        fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in (torch.float32, torch.float64):
        fail(op, argument, "float32 (or float64)", str(value.dtype), TypeError)
    if value.dim() != 2 or value.shape[0] != like.shape[0] or value.shape[1] < 1:
        fail(op, argument, f"shape [{axes}] with B = {like.shape[0]} and at least one column", shape_text(value))
    same_device(op, argument, value, "the latents", like)


def of_table(value: Tensor, like: Tensor) -> Tensor:
    """Returns a checked table [B, K] contiguous, float32, or float64 when `like` is float64; detached."""
    return detached(value).to(torch.float64 if like.dtype == torch.float64 else torch.float32).contiguous()


def coefficients(op: str, argument: str, value: Coefficient, like: Tensor) -> Tensor:
    """Returns one coefficient per sample, without a host synchronisation.

    Args:
        op: name of the operator, for messages.
        argument: name of the argument, for messages.
        value: a number, a tensor [] or a tensor [B]. Tensors are float32 or float64: rounding ᾱ_t to half
            precision costs three digits, so such a tensor is refused rather than widened.
        like: tensor [B, ...] that gives batch and device.

    Returns:
        [B] contiguous, float32, or float64 when `like` is float64; detached.

    Raises:
        TypeError: neither a number nor a float32 or float64 tensor.
        ValueError: another shape or device.
    """
    batch, dtype = like.shape[0], torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(value, Tensor):
        # What there nearly always is, and nothing to be done to.
        if value.dtype == dtype and value.shape == (batch,) and value.device == like.device:
            if value.is_contiguous() and not value.requires_grad:
                return value
        if value.dtype not in (torch.float32, torch.float64):
            fail(op, argument, "float32 (or float64)", str(value.dtype), TypeError)
        if value.dim() != 0 and value.shape != (batch,):
            fail(op, argument, f"a number or a tensor of shape [{batch}]", shape_text(value))
        if value.device != like.device:
            same_device(op, argument, value, "the latents", like)
        value = detached(value)
        if value.dtype == dtype and value.dim() and value.is_contiguous():
            return value
        return value.to(dtype).expand(batch).contiguous()
    return filled(real(op, argument, value), (batch,), dtype, like.device)


def scalar_or_coefficients(
    op: str, argument: str, value: Coefficient, like: Tensor, dtype: torch.dtype
) -> tuple[float, Tensor | None]:
    """Returns a weight as (number, None), or as (1, tensor) with a tensor [] or [B] on the device.

    A number stays a number: it reaches the kernel as an argument of the launch and costs nothing. In a graph of
    `torch.compile` it becomes a tensor of the arithmetic's dtype, see `filled`.

    Raises:
        TypeError, ValueError: as `coefficients`; also for a number that is not finite, which no policy could mend.
    """
    if isinstance(value, Tensor):
        return 1.0, coefficients(op, argument, value, like)
    value = real(op, argument, value)
    if value - value != 0:  # which needs no value of a symbolic float
        fail(op, argument, "a finite number", str(value))
    if torch.compiler.is_compiling():
        return 1.0, filled(value, (like.shape[0],), dtype, like.device)
    return float(value), None


def filled(value: float, size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns a tensor of one number; in a graph of `torch.compile` the number stays one of the graph's inputs."""
    if torch.compiler.is_compiling():
        # A product takes a symbolic float. As the value of full, or an operator's float argument, torch makes it a
        # constant of the graph, and every other number compiles another graph, up to torch's limit of eight.
        return torch.ones(size, dtype=dtype, device=device) * value
    return torch.full(size, value, dtype=dtype, device=device)


def scalar(value: float, like: Tensor) -> Any:
    """Returns a number as it is; in a graph of `torch.compile` as a tensor [], see `filled`."""
    return filled(value, (), like.dtype, like.device) if torch.compiler.is_compiling() else value


def real(op: str, argument: str, value: float) -> float:
    """Returns a number as Python's, numpy's included.

    Raises:
        TypeError: no number, or a bool.
    """
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)) and not isinstance(value, bool):
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        fail(op, argument, "a number or a tensor", type(value).__name__, TypeError)
    return float(value)


def detached(value: Tensor) -> Tensor:
    """Returns a tensor that requires no gradient: itself, or a view of it."""
    return value.detach() if value.requires_grad else value


def reductions(op: str, batch_reduction: str, nonfinite: str) -> None:
    """Checks the two options that every loss has.

    Raises:
        ValueError: an unknown option.
    """
    choice(op, "batch_reduction", batch_reduction, BATCH_REDUCTIONS)
    choice(op, "nonfinite", nonfinite, NONFINITE)


def raise_nonfinite(op: str, counts: dict[str, Tensor]) -> None:
    """Raises for terms with non-finite elements. This reads the counts, hence synchronises with the device.

    Raises:
        FloatingPointError: a count is not zero; names the terms and their counts.
    """
    totals = {term: int(count.sum().item()) for term, count in counts.items()}
    bad = [f"{total} in {term}" for term, total in totals.items() if total]
    if bad:
        raise FloatingPointError(f"{op}: expected finite elements, got non-finite ones: {', '.join(bad)}")
