"""Fixtures for all tests: GPU tests that skip with their reason, poisoned memory, few threads, fixed seeds; and the
instruction set that the tests pretend, chosen before torch is loaded."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Iterator

import pytest

from . import standin
from .support import covering, instruction_sets

instruction_sets.pretend()
if standin.ACTIVE:
    standin.prepare()

import torch  # noqa: E402

from .support import gpu  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cover", choices=list(covering.STRENGTHS), help="fewer cases, see tests/support/covering.py")


def pytest_configure(config: pytest.Config) -> None:
    if (reason := instruction_sets.cannot_pretend()) is not None:
        pytest.exit(reason, returncode=0)
    # Set before anything runs: torch does not like the number changed under way.
    torch.set_num_threads(min(2, torch.get_num_threads()))
    # What some versions of torch want for deterministic matrix products, before CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Where nothing can be remembered, the command line does not say what it says once.
    os.environ["LDP_FAST_CACHE"] = os.devnull
    if standin.ACTIVE:
        standin.start(config)


def missing_gpu() -> str | None:
    """Returns why GPU tests cannot run, or None."""
    if standin.ACTIVE:
        return None
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return "no CUDA device was found"
    return None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    reason = missing_gpu()
    for item in items:
        if reason is not None and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
    yield
    # Of what -m and -k have left.
    if wanted := config.getoption("--cover"):
        kept = covering.chosen(items, covering.STRENGTHS[wanted])
        left_out = {item.nodeid for item in items} - {item.nodeid for item in kept}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = kept


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays to the end: garbage is not looked for among it again, in every test."""
    if gc.get_freeze_count():
        return  # pytest that a test runs in its own process
    gc.collect()
    gc.freeze()
    session.config.add_cleanup(gc.unfreeze)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state, in whatever order they run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def full_float32(request: pytest.FixtureRequest) -> Iterator[None]:
    """What compares on a GPU computes in float32's own precision, unless it says otherwise."""
    with gpu.full_float32() if request.node.get_closest_marker("gpu") else contextlib.nullcontext():
        yield


@pytest.fixture
def deterministic() -> Iterator[None]:
    """The same algorithms with the same bits in a graph and outside of it."""
    with gpu.deterministic():
        yield


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fills uninitialised memory (torch.empty and its kin) with NaN, or the largest integer."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
