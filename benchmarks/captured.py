"""What a call costs the device and what it costs the host, apart: a captured graph's replays, and the enqueueing.

A call that is timed with the device synchronised around it is as long as the longer of the two, which for a small
operator is the host. `times` captures it: the device's time is that of replaying calls on rotating inputs, between two
events of the stream; the host's is that of the eager calls, without waiting for the device. A stream holds about a
thousand launches: of a call with more than that, the host's time is at least the device's for those before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from . import REHEARSING

QUEUE = 64  # eager calls between waits: fewer than the launches that a stream holds before it blocks the host


class Times(NamedTuple):
    """Seconds a call.

    Attributes:
        device: of the device, the best of the rounds.
        host: of the host, the best of the rounds.
    """

    device: float
    host: float


def times(
    calls: Sequence[Callable[[], Any]],
    *,
    rounds: int | None = None,
    graph: bool = True,
    cuda: Any = torch.cuda,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Times calls that do the same on different inputs, so that no call finds its own in the cache.

    Args:
        calls: what is timed; together their inputs should be larger than the cache.
        rounds: how often all of them are replayed, and enqueued; None: 20, once in a rehearsal.
        graph: whether they are captured; False for what replays a graph itself, or cannot be part of one: then the
            device's time is that between events around the eager calls, which may wait for the host.
        cuda: torch.cuda, or what stands in for it in a test.
        clock: seconds of the host.
    """
    if not calls:
        raise ValueError("calls: expected at least one, got none")
    rounds = rounds or (1 if REHEARSING else 20)
    replay, results = _graph_of(calls, cuda) if graph else (partial(_all, calls), None)
    replay()
    device = min(_between_events(replay, cuda) for _ in range(rounds)) / len(calls)
    del results
    return Times(device, min(_enqueued(calls, cuda, clock) for _ in range(rounds)))


def extra(calls: Sequence[Callable[[], Any]], **options: Any) -> dict[str, Any]:
    """`times` as what a row of results says beside its time.

    `not_captured` says why, where the calls cannot be captured; `eager`: they were not to be, and the device's time may
    have waits for the host in it.
    """
    try:
        found = times(calls, **options)
    except RuntimeError as error:
        said = str(error).strip() or type(error).__name__
        return {"not_captured": said.splitlines()[0][:300]}
    captured: dict[str, Any] = {} if options.get("graph", True) else {"eager": True}
    return {"device_s": found.device, "host_s": found.host} | captured


def _graph_of(calls: Sequence[Callable[[], Any]], cuda: Any) -> tuple[Callable[[], Any], list[Any]]:
    """What replays all calls, and their results, whose memory is the graph's."""
    side = cuda.Stream()
    side.wait_stream(cuda.current_stream())
    with cuda.stream(side):
        for call in calls:
            call()  # compiles, and lets libraries choose
    cuda.current_stream().wait_stream(side)
    cuda.synchronize()
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        results = [call() for call in calls]
    return graph.replay, results


def _all(calls: Sequence[Callable[[], Any]]) -> None:
    for call in calls:
        call()


def _between_events(replay: Callable[[], Any], cuda: Any) -> float:
    """Seconds of the device from before to after."""
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    cuda.synchronize()
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _enqueued(calls: Sequence[Callable[[], Any]], cuda: Any, clock: Callable[[], float]) -> float:
    """Seconds of the host for a call, while the device has room for more."""
    cuda.synchronize()
    enqueued = calls[:QUEUE]
    start = clock()
    for call in enqueued:
        call()
    return (clock() - start) / len(enqueued)
