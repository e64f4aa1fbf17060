"""Checks of the renderer's arguments: one sentence that says what was expected and what came."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

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


def whole(what: str, argument: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns a whole number of a range.

    Raises:
        ValueError: it is none, or outside.
    """
    wanted = f"a whole number of at least {low}" if high is None else f"a whole number of {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        fail(what, argument, wanted, repr(value))
    if value < low or (high is not None and value > high):
        fail(what, argument, wanted, str(value))
    return value


def number(what: str, argument: str, value: Any, low: float = -math.inf, *, open_low: bool = False) -> float:
    """Returns a finite number of at least (or above) `low`.

    Raises:
        ValueError: it is none, not finite, or too small.
    """
    bound = "" if low == -math.inf else f" {'above' if open_low else 'of at least'} {low:g}"
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < low or (open_low and value == low):
        fail(what, argument, f"a finite number{bound}", repr(value))
    return float(value)


def choice(what: str, argument: str, value: Any, choices: Sequence[str]) -> str:
    """Returns one of the known options.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        fail(what, argument, f"one of {', '.join(map(repr, choices))}", repr(value))
    return value
