"""CUDA graphs of the stand-in: a list of operations that runs again, on the same memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from .state import STATE, Generator, Stream
from .tensor import compute
from .trees import leaves


def _whole(x: Tensor) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage())


class CUDAGraph:
    """What was captured. As on a device, capturing computes nothing: what was written is put back, and what was made is
    filled with NaN until the first replay."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.tape: list[tuple[Any, Any, Any, Any, Generator | None]] = []
        self.made: dict[int, Tensor] = {}
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.states: list[tuple[Generator, Tensor]] = []
        self.registered: list[Generator] = []
        self.broken = self.ended = False

    def register_generator_state(self, generator: Generator) -> None:
        if generator.device.type != "cuda":
            raise RuntimeError(f"expected a generator of a CUDA device, got one of {generator.device}")
        self.registered.append(generator)

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        if STATE.graph is not None:
            raise RuntimeError("a graph is being captured already")
        if STATE.current() in STATE.defaults:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.states = [(g, g.get_state()) for g in (*STATE.generators, *self.registered)]
        STATE.graph = self

    def record(self, func: Any, args: Any, kwargs: Any, out: Any, generator: Generator | None) -> None:
        self.tape.append((func, args, kwargs, out, generator))
        given = {x.untyped_storage().data_ptr() for x in leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in leaves(out):
            if isinstance(x, Tensor) and x.untyped_storage().data_ptr() not in given:
                self.made[x.untyped_storage().data_ptr()] = x
        if generator is not None and not any(generator is g for g, _ in self.states):
            raise RuntimeError("a generator draws that is not registered with the graph")

    def about_to_write(self, x: Tensor) -> None:
        """Keeps what memory held that was there before the capture."""
        at = x.untyped_storage().data_ptr()
        if at not in self.made and at not in self.before:
            self.before[at] = (x, _whole(x).clone())

    def capture_end(self) -> None:
        STATE.graph = None
        with _disable_current_modes():
            for x, old in self.before.values():
                _whole(x).copy_(old)
            for x in self.made.values():
                if x.is_floating_point():
                    torch.empty(0, dtype=x.dtype).set_(x.untyped_storage()).fill_(float("nan"))
        for generator, state in self.states:
            generator.set_state(state)
        self.before, self.made = {}, {}
        if self.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.ended = True

    def replay(self) -> None:
        if not self.ended:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        with _disable_current_modes(), torch.no_grad():
            for func, args, kwargs, out, generator in self.tape:
                again = compute(func, args, kwargs, generator)
                for old, new in zip(leaves(out), leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def reset(self) -> None:
        self.tape, self.ended = [], False

    def pool(self) -> tuple[int, int]:
        return (0, 1)


class graph:
    """`torch.cuda.graph`."""

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global"):
        self.graph, self.stream, self.mode = cuda_graph, stream, capture_error_mode

    def __enter__(self) -> None:
        STATE.wait("before a capture")
        STATE.enter(self.stream or Stream())
        self.graph.capture_begin(capture_error_mode=self.mode)

    def __exit__(self, *_: Any) -> None:
        try:
            self.graph.capture_end()
        finally:
            STATE.leave()
