"""What stands in the tuples, lists and dicts of an operation's arguments.

torch's own walk (`torch.utils._pytree`) knows more kinds of containers and takes longer than most operations do here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def leaves(value: Any) -> list[Any]:
    """Everything that is not a tuple, a list or a dict, in order."""
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in leaves(part)] if value else []
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)] if value else []
    return [value]


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """The same containers, anew, around what each leaf is changed into."""
    if isinstance(value, tuple | list):
        parts = [mapped(change, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return {name: mapped(change, part) for name, part in value.items()}
    return change(value)
