"""Checks of the renderer's arguments: one sentence that says what was expected and what came."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64)


def fail(what: str, argument: str, expected: str, got: str, error: type[Exception] = ValueError) -> NoReturn:
    """Raises the sentence."""
    raise error(f"{what}: {argument}: expected {expected}, got {got}")


def shape_text(tensor: Tensor) -> str:
    """A shape for people: `[4096, 3]`."""
    return f"[{', '.join(str(size) for size in tensor.shape)}]"


def tensor(what: str, argument: str, value: Any, shape: Sequence[int | str], like: Tensor | None = None) -> None:
    """Checks a float32 or float64 tensor of a shape; a word in the shape stands for any size.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: another shape, or on another device than `like`.
    """
    if not isinstance(value, Tensor):
        fail(what, argument, "a tensor", type(value).__name__, TypeError)
    if value.dtype not in FLOATING:
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


def whole(what: str, argument: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns a whole number of a range, Python's or NumPy's, as an int.

    Raises:
        ValueError: it is not a whole number, or outside the range.
    """
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number of {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, (int, numbers.Integral)):
        fail(what, argument, wanted, repr(value))
    whole_number = value if isinstance(value, int) else int(value)
    if whole_number < low or (high is not None and whole_number > high):
        fail(what, argument, wanted, str(value))
    return whole_number


def real(value: Any) -> bool:
    """Whether a value is a real number, Python's or NumPy's; a truth value is not."""
    return isinstance(value, (int, float, numbers.Real)) and not isinstance(value, bool)


def number(what: str, argument: str, value: Any, low: float = -math.inf, *, open_low: bool = False) -> float:
    """Returns a finite number of at least (or above) `low`, as a float.

    Raises:
        ValueError: it is not a number, not finite, or too small.
    """
    bound = "" if low == -math.inf else f" {'above' if open_low else 'of at least'} {low:g}"
    if not (real(value) and math.isfinite(value)) or value < low or (open_low and value == low):
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


def flag(what: str, argument: str, value: Any) -> bool:
    """Returns a truth value, Python's or NumPy's.

    Raises:
        TypeError: it is not a truth value.
    """
    if not isinstance(value, (bool, np.bool_)):
        fail(what, argument, "True or False", repr(value), TypeError)
    return bool(value)


def memory(tensor: Tensor) -> np.ndarray | None:
    """Returns the memory of a tensor on the CPU, to look at its values without calling an operator of PyTorch.

    None where there are no values to look at, or where that would wait for a device: on a GPU, while compiling, and
    for the tensors of `torch.func` and of tracing.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu" or type(tensor) not in (Tensor, torch.nn.Parameter):
        return None
    try:
        return tensor.detach().numpy()
    except RuntimeError:
        return None


def choice(what: str, argument: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of the known options.

    Raises:
        ValueError: it is another.
    """
    if value not in choices:
        fail(what, argument, f"one of {', '.join(map(repr, choices))}", repr(value))
    return value
