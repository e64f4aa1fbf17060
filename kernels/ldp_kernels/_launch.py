"""Launches that go straight to a compiled kernel when it was launched in the same way before.

Triton binds and specialises the arguments of every launch anew, which takes most of a launch's time on the host. Of
the same kernel, device, dtypes, numbers and constants, with tensors at multiples of 16 bytes, it makes the same kernel:
that one is kept. Anything else takes Triton's way, which is always right. What changes how kernels are compiled
(`triton.knobs`: debugging, instrumentation) has to be set before the first launch, or to be followed by `forget`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from triton.runtime import JITFunction, driver

# By everything that a kernel is specialised on, then by the device: the function, the compiled kernel, the constants
# that follow.
_KNOWN: dict[tuple[Any, ...], dict[int, tuple[Any, Any, tuple[Any, ...]]]] = {}
_MOST = 512


def launch(
    kernel: Any,
    grid: tuple[int],
    tensors: Sequence[Tensor | None],
    numbers: tuple[Any, ...],
    constants: dict[str, Any],
    arguments: tuple[Any, ...] | None = None,
) -> None:
    """Launches `kernel[grid](*tensors, *numbers, **constants)`, or `kernel[grid](*arguments, **constants)`.

    Args:
        kernel: a function of `triton.jit`.
        grid: of one axis.
        tensors: its tensors; None is a constant of the kernel.
        numbers: its numbers, and tuples of them.
        constants: its compile-time arguments by name, and Triton's options.
        arguments: tensors and numbers in the kernel's order, where that is another.
    """
    if arguments is None:
        arguments = (*tensors, *numbers)
    low, dtypes = 0, []
    for tensor in tensors:
        if tensor is None:
            dtypes.append(None)
        else:
            low |= tensor.data_ptr()
            dtypes.append(tensor.dtype)
    # Triton's interpreter has functions of its own, and hooks before a launch are Triton's to call.
    if low & 15 or type(kernel) is not JITFunction or getattr(kernel, "pre_run_hooks", None):
        kernel[grid](*arguments, **constants)
        return
    # The kernel lives as long as what is kept of it, so that no other has its address.
    key = (id(kernel), *dtypes, numbers, *constants.items())
    found = _KNOWN.get(key)
    if found is not None:
        known = found.get(driver.active.get_current_device())
        if known is not None:
            known[1][grid[0], 1, 1](*arguments, *known[2])
            return
    compiled = kernel[grid](*arguments, **constants)
    if hasattr(type(compiled), "__getitem__"):  # not what stands for a kernel that is still being compiled
        if len(_KNOWN) >= _MOST:
            _KNOWN.clear()
        names = kernel.arg_names[len(arguments) :]
        of_device = _KNOWN.setdefault(key, {})
        of_device[driver.active.get_current_device()] = kernel, compiled, tuple(constants[name] for name in names)


def forget() -> None:
    """Has every kernel launched by Triton once more."""
    _KNOWN.clear()
