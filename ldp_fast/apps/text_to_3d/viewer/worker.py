"""Who renders when: turns between training and viewing, and a thread that draws the newest view of each visitor."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from types import TracebackType

# Seconds without a movement after which a camera rests and the full resolution is due.
REST = 0.25
# Pictures drawn because training went on, not because somebody asked, take at most about this share of the time …
SHARE = 0.1
# … and come at most this often, in seconds.
PERIOD = 0.5


class Turns:
    """A lock whose waiters get it in the order in which they came.

    With `threading.Lock` a loop that lets go and takes again at once never lets another thread in.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._taken = False

    def acquire(self) -> None:
        """Waits for this thread's turn."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        try:
            ticket.acquire()
        except BaseException:  # Ctrl-C while waiting must not leave a turn that nobody takes
            with self._mutex:
                mine = ticket not in self._waiting
                if not mine:
                    self._waiting.remove(ticket)
            if mine:
                self.release()
            raise

    def release(self) -> None:
        """Hands the lock to whoever waits longest."""
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class _Due:
    """When a visitor's pictures are due; None: not."""

    def __init__(self) -> None:
        self.coarse: float | None = None
        self.fine: float | None = None
        self.served = 0.0  # when it had its last picture, for fairness between visitors


class Worker:
    """A thread that draws, one picture at a time.

    Only *that* a visitor's view has changed is queued; what it is like is read when drawing begins, so that the newest
    camera wins and none piles up.

    Args:
        draw: visitor, whether a coarse picture will do -> whether the picture is final (if not, and nothing moves, a
            fine one follows). It must not raise: an exception ends the thread.
    """

    def __init__(self, draw: Callable[[Hashable, bool], bool]):
        self._draw = draw
        self._due: dict[Hashable, _Due] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._next_refresh = 0.0
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    def moved(self, visitor: Hashable) -> None:
        """The camera moves: a coarse picture now, a fine one once it rests."""
        with self._changed:
            due, now = self._due.setdefault(visitor, _Due()), time.monotonic()
            due.coarse, due.fine = now, now + REST
            self._changed.notify()

    def changed(self, visitor: Hashable) -> None:
        """Something else changed: a fine picture now."""
        with self._changed:
            self._due.setdefault(visitor, _Due()).fine = time.monotonic()
            self._changed.notify()

    def refresh(self) -> None:
        """The object changed: a fine picture for everybody, in good time."""
        with self._changed:
            for due in self._due.values():
                if due.fine is None:
                    due.fine = max(time.monotonic(), self._next_refresh)
            self._changed.notify()

    def forget(self, visitor: Hashable) -> None:
        """The visitor has left."""
        with self._changed:
            self._due.pop(visitor, None)

    @property
    def visitors(self) -> int:
        """How many there are."""
        return len(self._due)

    def close(self) -> None:
        """Ends the thread after the picture it is at."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    if self._closed:
                        return
                    self._changed.wait(self._until_next())
                if self._closed:
                    return
                visitor, coarse = job
                due = self._due[visitor]
                waiting_fine, due.coarse = due.fine, None
                if not coarse:
                    due.fine = None
            started = time.monotonic()
            final = self._draw(visitor, coarse)
            ended = time.monotonic()
            with self._changed:
                due.served = ended
                self._next_refresh = ended + max(PERIOD, (ended - started) * (1 / SHARE - 1))
                # Unless the camera moved while it was drawn, a final picture needs no finer one.
                if coarse and final and due.coarse is None and due.fine == waiting_fine:
                    due.fine = None

    def _next(self) -> tuple[Hashable, bool] | None:
        """Whose picture to draw now: moving cameras first, among equals whoever has waited longest."""
        now = time.monotonic()
        coarse = [v for v, due in self._due.items() if due.coarse is not None]
        fine = [v for v, due in self._due.items() if due.fine is not None and due.fine <= now]
        chosen = min(coarse or fine, key=lambda v: self._due[v].served, default=None)
        return None if chosen is None else (chosen, bool(coarse))

    def _until_next(self) -> float | None:
        times = [due.fine for due in self._due.values() if due.fine is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None
