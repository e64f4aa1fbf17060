"""Calls whose checks have been made: the next of the same shapes, dtypes, devices and options goes without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
