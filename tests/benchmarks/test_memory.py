"""Peak memory sees what is allocated, and not what was there before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from benchmarks import memory

MIB = 2**20
pytestmark = pytest.mark.skipif(memory.missing("cpu") is not None, reason=str(memory.missing("cpu")))


def allocations(held: int, kept: int, passing: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A pass with `kept` MB to its end and `passing` MB that are freed twice; `held` MB are there before."""
    before = torch.ones(held * MIB // 4)

    def run(size: int = 1) -> object:
        result = torch.ones(size * kept * MIB // 4)
        for _ in range(2):
            torch.ones(size * passing * MIB // 4)
        return result, before

    # As large as the pass: what malloc kept of it would hide the growth.
    return run, run


def test_a_known_allocation_is_seen() -> None:
    growth = memory.measure(
        None, "tests.benchmarks.test_memory:allocations", "cpu", {"held": 30, "kept": 20, "passing": 40}
    )
    assert 59 < growth.peak / MIB < 64
    assert 29 < growth.held / MIB < 45


def test_many_small_tensors_are_seen_as_well() -> None:
    growth = memory.measure(None, "tests.benchmarks.test_memory:small_tensors", "cpu", {"megabytes": 24})
    assert 23 < growth.peak / MIB < 32


def small_tensors(megabytes: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """Tensors of 256 KiB, which malloc would keep for itself."""

    def run() -> object:
        return [torch.ones(MIB // 16) for _ in range(4 * megabytes)]

    return run, run


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="of nobody"):
        memory.measure(None, "tests.benchmarks.test_memory:fails", "cpu", {})


def fails() -> None:
    """Raises."""
    raise ValueError("of nobody")


@pytest.mark.gpu
def test_a_known_allocation_is_seen_on_a_gpu() -> None:
    run, _ = (lambda: torch.ones(20 * MIB // 4, device="cuda"), None)
    run()
    assert memory.measure(run, "", "cuda", {}).peak == 20 * MIB
