"""Backends, sizes and bookkeeping of the benchmarks.

    pytest benchmarks                        # everything that runs here
    pytest benchmarks -k "small and not compile"
    make bench                               # the same, kept in benchmarks/results/ (benchmarks/run.py)
    make bench BENCH="-k decoder"

Every operator is timed as the eager reference (`ldp_fast.reference`), as `torch.compile` of the same function, and as
ours (the Triton kernel on CUDA, the CPU implementation on a CPU), on the inputs of `tests/support`, in one run and
grouped by operator and size. What a machine lacks is skipped with its reason. On CUDA the timed call ends with a
synchronisation and the inputs rotate through buffers larger than the cache; `extra_info` has the device's time of a
captured graph and the host's time apart (benchmarks/captured.py). Bytes that have to be moved are reported
in `extra_info`.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support import samples

from . import REHEARSING, captured, rehearsal
from .machine import compile_missing, default_device
from .recording import Recorder

BACKENDS = ("eager", "compile", "ours")
SIZES: dict[str, samples.Shape] = {
    "small": (1, 4, 8, 8),
    "sd": (4, 4, 64, 64),
    "sdxl": (4, 4, 128, 128),
    "sd3": (4, 16, 128, 128),
}
CACHE_BYTES = 128 * 2**20
MOST_COPIES = 512


class Rehearsal:
    """Benchmarks on the stand-in for a GPU, where that was asked for: that they run to their end, not how fast."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        with rehearsal():
            return (yield)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rows", type=Path, help="file for the rows of the results, see benchmarks/recording.py")
    parser.addoption("--seconds", type=float, help="start no benchmark later than this")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(min(2, torch.get_num_threads()))
    config.pluginmanager.register(Rehearsal())
    rows = config.getoption("--rows", default=None)
    if rows is not None:
        config.pluginmanager.register(Recorder(rows, config.getoption("--seconds")))


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Lets `pytest benchmarks` find bench_*.py, which `pytest tests` has no business with."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


def missing(backend: str, device: str) -> str | None:
    """Returns why a backend cannot be timed here, or None."""
    if backend == "compile" and (reason := compile_missing(device)):
        return reason
    if device == "cuda" and backend != "eager" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    return None


@pytest.fixture(scope="session")
def device() -> str:
    return default_device()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, device: str) -> str:
    reason = missing(request.param, device)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=list(SIZES))
def size(request: pytest.FixtureRequest) -> str:
    return request.param


def nbytes(*values: Any) -> int:
    """Returns the bytes of all tensors among the values."""
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def copied(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs elsewhere in memory."""
    return {
        name: value.detach().clone().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


@pytest.fixture
def measure(benchmark: Any, device: str, backend: str, size: str) -> Callable[..., None]:
    """Times `functions[backend](**inputs)` and files it under operator and size."""

    def run(op: str, functions: dict[str, Callable[..., Any]], make_inputs: Callable[[int], dict[str, Any]]) -> None:
        benchmark.group = f"{op} {size} {device}"
        function = torch.compile(functions["eager"]) if backend == "compile" else functions[backend]
        first = make_inputs(0)
        result = function(**first)
        moved = nbytes(*first.values(), *(result if isinstance(result, tuple) else (result,)))
        benchmark.extra_info |= {"op": op, "backend": backend, "shape": list(SIZES[size]), "bytes": moved}
        if device == "cpu":
            benchmark(function, **first)
            return
        copies = 2 if REHEARSING else min(MOST_COPIES, CACHE_BYTES // max(moved, 1) + 2)
        rotation = itertools.cycle([first, *(copied(first) for _ in range(copies - 1))])
        benchmark.extra_info["device"] = torch.cuda.get_device_name()

        def timed() -> None:
            function(**next(rotation))
            torch.cuda.synchronize()

        benchmark(timed)
        calls = [functools.partial(function, **next(rotation)) for _ in range(copies)]
        benchmark.extra_info |= captured.extra(calls)

    return run
