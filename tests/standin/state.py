"""What the stand-in's device remembers: streams, work that is under way, random numbers, the graph being captured."""

from __future__ import annotations

import time
import weakref
from typing import Any, ClassVar

import torch

DEVICES = 2
PINNED: dict[int, int] = {}
"""Where host memory that claims to be pinned begins, and its bytes."""


HostGenerator = torch.Generator


class AnyGenerator(type(HostGenerator)):
    """Makes `isinstance(x, torch.Generator)` true of the CPU's generators as well."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, HostGenerator)


class Generator(HostGenerator, metaclass=AnyGenerator):
    """A generator of the stand-in's device. Its numbers come from a CPU's, whose state it may share with others."""

    known: ClassVar[weakref.WeakValueDictionary[int, Generator]] = weakref.WeakValueDictionary()

    def __new__(cls, device: Any = "cpu") -> Any:
        return HostGenerator() if torch.device(device).type == "cpu" else super().__new__(cls)

    def __init__(self, device: Any = "cpu"):
        self.place = indexed(torch.device(device))
        self.source = HostGenerator()
        Generator.known[self._cdata] = self
        self.manual_seed(0)

    @property
    def device(self) -> torch.device:
        return self.place

    def manual_seed(self, seed: int) -> Generator:
        # Another sequence than the CPU's of the same seed, as on a real device.
        self.source.manual_seed((int(seed) + 0x5EED) % 2**63)
        return self

    def get_state(self) -> torch.Tensor:
        return self.source.get_state()

    def set_state(self, state: torch.Tensor) -> Generator:  # type: ignore[override]
        self.source.set_state(state)
        return self

    def clone_state(self) -> Generator:
        clone = Generator(self.place)
        return clone.set_state(self.get_state())

    def graphsafe_get_state(self) -> Generator:
        clone = Generator(self.place)
        clone.source = self.source
        return clone

    def graphsafe_set_state(self, other: Generator) -> Generator:  # type: ignore[override]
        self.source = other.source
        return self


def indexed(device: torch.device) -> torch.device:
    """A device with its number."""
    if device.type != "cuda":
        return device
    index = STATE.device if device.index is None else device.index
    if not 0 <= index < DEVICES:
        raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
    return torch.device("cuda", index)


class Stream:
    """A stream: work is done at once, in the order in which it is given."""

    count = 0

    def __init__(self, device: Any = None, priority: int = 0, **_: Any):
        self.device = indexed(torch.device("cuda" if device is None else device))
        Stream.count += 1
        self.cuda_stream = self.stream_id = Stream.count
        self.device_index, self.device_type, self.priority = self.device.index, 1, priority

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, Event)

    def record_event(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        STATE.wait("a stream is synchronised")

    def query(self) -> bool:
        return not STATE.busy

    def __enter__(self) -> Stream:
        return STATE.enter(self)

    def __exit__(self, *_: Any) -> None:
        STATE.leave()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.stream_id == self.stream_id

    def __hash__(self) -> int:
        return hash(self.stream_id)


class Event:
    """An event: it has happened unless a `_sleep` was under way when it was recorded, and is still."""

    def __init__(self, enable_timing: bool = False, **_: Any):
        self.timing, self.at, self.pending = enable_timing, 0.0, 0

    def record(self, stream: Stream | None = None) -> None:
        self.at, self.pending = time.perf_counter(), STATE.busy

    def query(self) -> bool:
        if STATE.graph is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return not (self.pending and self.pending == STATE.busy)

    def wait(self, stream: Stream | None = None) -> None:
        assert stream is None or isinstance(stream, Stream)

    def synchronize(self) -> None:
        STATE.wait("an event is waited for")

    def elapsed_time(self, end: Event) -> float:
        if not (self.timing and end.timing):
            raise ValueError("Both events must be created with argument 'enable_timing=True'.")
        return 1e3 * (end.at - self.at)


class State:
    """The one device runtime of a process."""

    def __init__(self) -> None:
        self.device = 0
        self.streams: list[Stream] = []
        self.defaults: list[Stream] = []
        self.generators: list[Generator] = []
        self.debug = 0
        self.busy = 0  # number of the `_sleep` under way
        self.sleeps = 0
        self.graph: Any = None
        self.exempt = 0

    def start(self) -> None:
        self.defaults = [Stream(torch.device("cuda", i)) for i in range(DEVICES)]
        self.generators = [Generator(torch.device("cuda", i)) for i in range(DEVICES)]

    def current(self) -> Stream:
        on_device = [s for s in self.streams if s.device.index == self.device]
        return on_device[-1] if on_device else self.defaults[self.device]

    def enter(self, stream: Stream) -> Stream:
        self.streams.append(stream)
        return stream

    def leave(self) -> None:
        self.streams.pop()

    def sleep(self, cycles: int) -> None:
        self.sleeps += 1
        self.busy = self.sleeps

    def wait(self, what: str) -> None:
        """The host waits for the device: an error while a graph is captured."""
        if self.graph is not None:
            self.graph.broken = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
        self.busy = 0

    def synchronises(self, what: str) -> None:
        """The same, where torch looks for it."""
        if self.debug == 2 and self.graph is None:
            raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
        self.wait(what)


STATE = State()
