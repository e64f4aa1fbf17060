"""Checks of the arguments: one sentence that names operator, argument, what was expected and what came.

Nothing here reads a value from a device; only shapes, dtypes and devices are looked at.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

Coefficient = Tensor | float

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BatchReduction = Literal["mean", "sum"]
NonFinite = Literal["propagate", "zero", "raise"]
BATCH_REDUCTIONS = get_args(BatchReduction)
NONFINITE = get_args(NonFinite)

# What has passed the checks, by everything that they look at. Emptied when full: sizes hardly ever change.
_PASSED: set[tuple[Any, ...]] = set()
_MOST = 1024
_OPTIONS = frozenset({str, bool, type(None), torch.dtype})  # which isinstance is slow to tell from tensors


def signature(op: str, *values: Any) -> tuple[Any, ...] | None:
    """Returns what the checks of tensors and options look at: of a tensor shape, dtype and device, never its values.

    None in a graph of `torch.compile`, which is traced once.

    Args:
        op: name of the operator.
        *values: its tensors and options; not its numbers, which are looked at in every call.
    """
    if torch.compiler.is_compiling():
        return None
    parts: list[Any] = [op]
    for value in values:
        if type(value) in _OPTIONS:
            parts.append(value)
        elif isinstance(value, Tensor):
            parts += (value.shape, value.dtype, value.device)
        else:
            parts.append(value)
    return tuple(parts)


def passed(key: tuple[Any, ...] | None) -> bool:
    """Returns whether a call of this signature has passed its checks before."""
    try:
        return key in _PASSED
    except TypeError:  # symbolic sizes, and options of any type at all, have no hash
        return False


def remember(key: tuple[Any, ...] | None) -> None:
    """Notes that a call of this signature has passed its checks."""
    if key is None:
        return
    if len(_PASSED) >= _MOST:
        _PASSED.clear()
    try:
        _PASSED.add(key)
    except TypeError:
        return


def detached(value: Tensor) -> Tensor:
    """Returns a tensor that requires no gradient: itself, or a view of it."""
    return value.detach() if value.requires_grad else value


def _fail(op: str, argument: str, expected: str, got: str, error: type[Exception] = ValueError) -> None:
    raise error(f"{op}: {argument}: expected {expected}, got {got}")


def shape(tensor: Tensor) -> str:
    """Returns a shape for people: `[2, 4, 64, 64]`."""
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def choice(op: str, argument: str, value: str, choices: Sequence[str]) -> None:
    """Checks that an option is one of the known ones.

    Raises:
        ValueError: it is not.
    """
    if value not in choices:
        _fail(op, argument, f"one of {', '.join(map(repr, choices))}", repr(value))


def reductions(op: str, batch_reduction: str, nonfinite: str) -> None:
    """Checks the two options that every loss has.

    Raises:
        ValueError: an unknown option.
    """
    choice(op, "batch_reduction", batch_reduction, BATCH_REDUCTIONS)
    choice(op, "nonfinite", nonfinite, NONFINITE)


def tensor(op: str, argument: str, value: Tensor) -> None:
    """Checks for a floating tensor on a device that the operators serve.

    Raises:
        TypeError: no tensor, or of a dtype other than float16, bfloat16, float32, float64.
        ValueError: on a device other than CPU and CUDA.
    """
    if not isinstance(value, Tensor):
        _fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in FLOATING:
        _fail(op, argument, "float16, bfloat16, float32 or float64", str(value.dtype), TypeError)
    if value.device.type not in ("cpu", "cuda", "meta"):
        _fail(op, argument, "a tensor on a CPU or CUDA device", f"one on {value.device}")


def latents(op: str, argument: str, value: Tensor) -> None:
    """Checks for latents: floating, [B, C, H, W], no empty sample (an empty batch is fine).

    Raises:
        TypeError: no floating tensor.
        ValueError: another rank, or samples without elements.
    """
    tensor(op, argument, value)
    if value.dim() != 4:
        _fail(op, argument, "shape [B, C, H, W]", shape(value))
    if 0 in value.shape[1:]:
        _fail(op, argument, "at least one element per sample", shape(value))


def like(op: str, argument: str, value: Tensor, other_argument: str, other: Tensor) -> None:
    """Checks for a floating tensor of the same shape and on the same device as another; dtypes may differ.

    Raises:
        TypeError: no floating tensor.
        ValueError: another shape or device.
    """
    tensor(op, argument, value)
    if value.shape != other.shape:
        _fail(op, argument, f"the shape of {other_argument}, {shape(other)}", shape(value))
    same_device(op, argument, value, other_argument, other)


def same_device(op: str, argument: str, value: Tensor, other_argument: str, other: Tensor) -> None:
    """Checks that two tensors are on the same device.

    Raises:
        ValueError: they are not.
    """
    if value.device != other.device:
        _fail(op, argument, f"a tensor on the device of {other_argument}, {other.device}", f"one on {value.device}")


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
            _fail(op, argument, "float32 (or float64)", str(value.dtype), TypeError)
        if value.dim() != 0 and value.shape != (batch,):
            _fail(op, argument, f"a number or a tensor of shape [{batch}]", shape(value))
        if value.device != like.device:
            same_device(op, argument, value, "the latents", like)
        value = detached(value)
        if value.dtype == dtype and value.dim() and value.is_contiguous():
            return value
        return value.to(dtype).expand(batch).contiguous()
    return filled(real(op, argument, value), (batch,), dtype, like.device)


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
        _fail(op, argument, "a number or a tensor", type(value).__name__, TypeError)
    return float(value)


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
        _fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in (torch.float32, torch.float64):
        _fail(op, argument, "float32 (or float64)", str(value.dtype), TypeError)
    if value.dim() != 2 or value.shape[0] != like.shape[0] or value.shape[1] < 1:
        _fail(op, argument, f"shape [{axes}] with B = {like.shape[0]} and at least one column", shape(value))
    same_device(op, argument, value, "the latents", like)


def of_table(value: Tensor, like: Tensor) -> Tensor:
    """Returns a checked table [B, K] contiguous, float32, or float64 when `like` is float64; detached."""
    return detached(value).to(torch.float64 if like.dtype == torch.float64 else torch.float32).contiguous()


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
        _fail(op, argument, wanted, f"{2 * channels} channels: a learned variance? pass model_output[:, :{channels}]")
    if tuple(value.shape) != (rows, channels, height, width):
        _fail(op, argument, wanted, shape(value))


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
        _fail(op, argument, "a finite number", str(value))
    if torch.compiler.is_compiling():
        return 1.0, filled(value, (like.shape[0],), dtype, like.device)
    return float(value), None


def raise_nonfinite(op: str, counts: dict[str, Tensor]) -> None:
    """Raises for terms with non-finite elements. This reads the counts, hence synchronises with the device.

    Raises:
        FloatingPointError: a count is not zero; names the terms and their counts.
    """
    totals = {term: int(count.sum().item()) for term, count in counts.items()}
    bad = [f"{total} in {term}" for term, total in totals.items() if total]
    if bad:
        raise FloatingPointError(f"{op}: expected finite elements, got non-finite ones: {', '.join(bad)}")
