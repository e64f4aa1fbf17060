"""A driver for Triton that starts nothing: what a launch costs the host, without a GPU.

Kernels are specialised, compiled for sm_90 and looked up as on a GPU; only the driver's own call is left out. The
outputs stay as they were allocated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch

from ldp_fast import _settings

# No real device's number: Triton keeps compiled kernels by device, and one of these must never reach a real driver.
_DEVICE = 1024


class _Utils:
    def load_binary(self, *args: Any) -> tuple[int, ...]:
        return 0, 1, 32, 0, 1024  # module, function, registers, spills, most threads

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32, "max_num_regs": 65536}


class _Launcher:
    def __init__(self, source: Any, metadata: Any):
        pass

    def __call__(self, *args: Any) -> None:
        pass


class Driver:
    """What Triton asks of an active driver."""

    utils, launcher_cls = _Utils(), _Launcher

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return _DEVICE

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def missing() -> str | None:
    """Returns why nothing can be launched into nothing here, or None."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    return "Triton's interpreter launches otherwise" if _settings.interpreting() else None


@contextmanager
def launching_into_nothing(wanted: bool = True) -> Iterator[None]:
    """Inside, operators of CPU tensors take their Triton launchers, and the driver does nothing; or as it was."""
    if not wanted:
        yield
        return
    from triton.runtime import driver

    before = dict(vars(driver))
    settings = mock.patch.object(_settings, "use_triton", lambda kind, *, double: not double)
    with settings, mock.patch.dict(os.environ, TRITON_INTERPRET="0"):
        driver.set_active(Driver())
        try:
            yield
        finally:
            vars(driver).clear()
            vars(driver).update(before)
