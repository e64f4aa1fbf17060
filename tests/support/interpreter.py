"""Triton's interpreter without what it does for nothing, which is more than a third of its time:

* At every call of a function within a kernel it patches the language anew, though the launch has done so.
* Of every sum and product of integers it works out whether it overflows, for an assertion which it then leaves out,
  unless its option `debug` is set.

Both are Triton's internals. Where one is not as it was, nothing of it is replaced; tests/ops/test_interpreter.py skips.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any


def install() -> bool:
    """Leaves both out from now on; returns whether it does, and changes nothing if it does not."""
    try:
        import triton.language as tl
        from triton.runtime import interpreter

        whole, nothing = interpreter._patch_lang, interpreter._LangPatchScope
        options, is_builtin = interpreter.interpreter_builder.options, tl.core.is_builtin
        unchecked = dataclasses.replace(options, sanitize_overflow=options.debug)
        if not is_builtin(tl.load) or hasattr(whole, "ldp_whole"):
            return hasattr(whole, "ldp_whole")
    except (ImportError, AttributeError, TypeError):
        return False

    @functools.cache
    def used(function: Any) -> tuple[Any, ...]:
        """The modules of the language that a function sees: what has to be patched for it."""
        seen = function.__globals__.values()
        return tuple(module for module in (tl, tl.core) if any(value is module for value in seen))

    def once(function: Any) -> Any:
        modules = used(function)
        # What the interpreter puts in the place of a builtin is not marked as one. It does so in the module of the
        # kernel and, in all modules alike, in the class of tensors; and takes it back after the launch.
        patched = not any(is_builtin(module.load) for module in (*modules, tl))
        return nothing() if modules and patched else whole(function)

    once.ldp_whole = whole  # type: ignore[attr-defined]
    interpreter._patch_lang = once
    interpreter.interpreter_builder.options = unchecked
    return True
