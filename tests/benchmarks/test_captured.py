"""The timing of captured graphs, on a stand-in for torch.cuda with clocks of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.captured import QUEUE, extra, times


class FakeCuda:
    """A device of 2 ms a call and a host of 5 ms; a graph's start costs 1 ms more than its kernels."""

    def __init__(self) -> None:
        self.host, self.device, self.pending = 0.0, 0.0, 0.0
        self.capturing: list[float] | None = None
        self.waits = 0

    def call(self) -> str:
        self.host += 0.005
        if self.capturing is not None:
            self.capturing.append(0.002)
        else:
            self.device = max(self.device, self.host) + 0.002
        return "result"

    def current_stream(self) -> FakeCuda:
        return self

    Stream = current_stream

    def wait_stream(self, other: Any) -> None:
        pass

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        yield

    def synchronize(self) -> None:
        self.waits += 1
        self.host = self.device = max(self.host, self.device)

    def CUDAGraph(self) -> Graph:
        return Graph(self)

    @contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.capturing = graph.kernels
        yield
        self.capturing = None

    def Event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Graph:
    def __init__(self, cuda: FakeCuda):
        self.cuda, self.kernels = cuda, []

    def replay(self) -> None:
        self.cuda.host += 0.0001
        self.cuda.device += 0.001 + sum(self.kernels)


class Event:
    def __init__(self, cuda: FakeCuda):
        self.cuda, self.at = cuda, 0.0

    def record(self) -> None:
        self.at = self.cuda.device

    def synchronize(self) -> None:
        self.cuda.synchronize()

    def elapsed_time(self, end: Event) -> float:
        return 1e3 * (end.at - self.at)


def test_device_and_host_are_told_apart() -> None:
    cuda = FakeCuda()
    found = times([cuda.call] * 10, rounds=3, cuda=cuda, clock=lambda: cuda.host)
    assert found.device == pytest.approx(0.002 + 0.001 / 10)
    assert found.host == pytest.approx(0.005)


def test_what_cannot_be_captured_is_timed_between_events() -> None:
    cuda = FakeCuda()
    cuda.CUDAGraph = None  # type: ignore[method-assign, assignment]
    found = times([cuda.call], rounds=3, graph=False, cuda=cuda, clock=lambda: cuda.host)
    assert found.device == pytest.approx(0.005 + 0.002)  # it waits for the host
    assert found.host == pytest.approx(0.005)


def failing() -> None:
    raise RuntimeError


def test_a_row_says_why_a_call_was_not_captured() -> None:
    cuda = FakeCuda()

    def call() -> None:
        if cuda.capturing is not None:
            cuda.capturing = None
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    assert extra([call], rounds=1, cuda=cuda) == {"not_captured": "operation not permitted when stream is capturing"}
    assert set(extra([cuda.call], rounds=1, cuda=cuda, clock=lambda: cuda.host)) == {"device_s", "host_s"}
    assert extra([failing], rounds=1, graph=False, cuda=cuda) == {"not_captured": "RuntimeError"}
    found = extra([cuda.call], rounds=1, graph=False, cuda=cuda, clock=lambda: cuda.host)
    assert found["eager"] and found["device_s"] == pytest.approx(0.005 + 0.002)


def test_no_more_is_enqueued_than_a_stream_holds() -> None:
    cuda = FakeCuda()
    called = 0

    def call() -> None:
        nonlocal called
        called += 1

    times([call] * (3 * QUEUE), rounds=1, cuda=cuda, clock=lambda: cuda.host)
    assert called == 3 * QUEUE + 3 * QUEUE + QUEUE  # warm-up, capture, the host's round


def test_nothing_to_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        times([], cuda=FakeCuda())
