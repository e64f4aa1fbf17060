"""A CUDA device that is not there: the tests marked `gpu`, rehearsed on the CPU.

    LDP_TEST_GPU=cpu pytest tests            # with -n, -k and -m as usual

runs every test marked `gpu` and no other. A tensor on "cuda" is then of a class that says so, in memory of the CPU, and
every operation runs on the CPU. What CUDA refuses is refused:

* tensors of two devices in one operation, a generator of another device, `.numpy()` of a tensor on the device;
* waiting for the device where `torch.cuda.set_sync_debug_mode("error")` forbids it, and in a capture;
* copies from memory that is not pinned, in a capture; drawing from a generator that is not registered with the graph.

Streams, events, devices (there are two) and graphs do what a device's do: capturing computes nothing, and a replay does
everything again in the same memory. What it is not: our kernels. Triton's are interpreted and ours in CUDA C++ compiled
for the CPU by other tests. Neither are there a device's roundings, times or memory.

Sizes that only a device can hold are smaller here (`tests/support/gpu.py`); `refused.py` says what cannot run, and why.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager

import pytest

VARIABLE = "LDP_TEST_GPU"


def wanted() -> bool:
    """Returns whether the stand-in was asked for.

    Raises:
        pytest.UsageError: the variable holds something else.
    """
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "cpu"):
        raise pytest.UsageError(f"{VARIABLE}: expected cpu or nothing, got {value!r}")
    return value == "cpu"


ACTIVE = wanted()


class Plugin:
    """Runs the tests marked `gpu` on the stand-in, and no others."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        from .refused import reason

        others = [item for item in items if not item.get_closest_marker("gpu")]
        items[:] = [item for item in items if item.get_closest_marker("gpu")]
        if others:
            config.hook.pytest_deselected(items=others)
        for item in items:
            if (why := reason(item.nodeid)) is not None:
                item.add_marker(pytest.mark.skip(reason=f"not on the stand-in: {why}"))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        from .tensor import MODE

        with MODE:
            return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        from .launches import SEEN

        if SEEN:
            kernels = sorted({name for name, *_ in SEEN})
            counts = ", ".join(f"{kernel} {sum(name == kernel for name, *_ in SEEN)}" for kernel in kernels)
            terminalreporter.write_line(f"Triton would have compiled {len(SEEN)} kernels in this process: {counts}")


@functools.cache
def prepare() -> None:
    """What has to be done before torch is imported; once."""
    from . import guard

    guard.load()


def start(config: pytest.Config) -> None:
    """Puts the stand-in in CUDA's place, for the rest of the process."""
    install()
    config.pluginmanager.register(Plugin(), "ldp-gpu-standin")


@functools.cache
def install() -> AbstractContextManager[object]:
    """The same without a plugin: what runs within what is returned finds the stand-in."""
    from . import cuda
    from .tensor import MODE

    cuda.install()
    return MODE
