"""Whose turn it is: between training and viewing, between visitors, and between cameras old and new."""

from __future__ import annotations

import threading
import time

import pytest

from ldp_fast.apps.text_to_3d.viewer import worker as viewer_worker
from ldp_fast.apps.text_to_3d.viewer.worker import Turns, Worker


def test_turns_are_in_order_and_a_greedy_loop_lets_others_in() -> None:
    turns, order, stop = Turns(), [], threading.Event()

    def greedy() -> None:
        while not stop.is_set():
            with turns:
                time.sleep(0.002)

    trainer = threading.Thread(target=greedy)
    trainer.start()
    try:
        for place in range(20):
            started = time.monotonic()
            with turns:
                order.append(place)
            assert time.monotonic() - started < 5
    finally:
        stop.set()
        trainer.join()
    with turns:
        waiting = []
        for place in range(5):
            thread = threading.Thread(target=lambda p=place: (turns.acquire(), order.append(p), turns.release()))
            thread.start()
            while len(turns._waiting) <= place:
                time.sleep(0.001)
            waiting.append(thread)
        del order[:]
    for thread in waiting:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


class Drawing:
    """Draws nothing, slowly on demand, and keeps a record."""

    def __init__(self, final: bool = False):
        self.calls: list[tuple[object, bool]] = []
        self.go, self.began, self.final = threading.Event(), threading.Semaphore(0), final

    def __call__(self, visitor: object, coarse: bool) -> bool:
        self.calls.append((visitor, coarse))
        self.began.release()
        assert self.go.wait(30)
        return self.final or not coarse


def settle(worker: Worker, drawing: Drawing, count: int) -> None:
    for _ in range(3000):
        if len(drawing.calls) >= count:
            break
        time.sleep(0.005)
    worker.close()
    assert len(drawing.calls) == count, drawing.calls


def test_the_newest_camera_wins_and_a_resting_one_gets_a_fine_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_worker, "REST", 0.1)
    drawing = Drawing()
    worker = Worker(drawing)
    worker.moved("a")
    assert drawing.began.acquire(timeout=30)
    for _ in range(100):
        worker.moved("a")  # while the first is drawn: one more picture, not a hundred
    drawing.go.set()
    settle(worker, drawing, 3)
    assert drawing.calls == [("a", True), ("a", True), ("a", False)]


def test_a_final_picture_is_not_drawn_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_worker, "REST", 0.05)
    drawing = Drawing(final=True)
    drawing.go.set()
    worker = Worker(drawing)
    worker.moved("a")
    time.sleep(0.3)
    worker.close()
    assert drawing.calls == [("a", True)]


def test_visitors_take_turns_and_who_left_is_not_drawn() -> None:
    drawing = Drawing()
    worker = Worker(drawing)
    worker.changed("a")
    assert drawing.began.acquire(timeout=30)
    worker.changed("b")
    worker.changed("a")
    worker.changed("c")
    worker.forget("c")
    drawing.go.set()
    settle(worker, drawing, 3)
    assert drawing.calls == [("a", False), ("b", False), ("a", False)]


def test_refreshes_of_training_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_worker, "PERIOD", 0.2)
    drawing = Drawing()
    drawing.go.set()
    worker = Worker(drawing)
    worker.refresh()  # nobody looks
    worker.changed("a")
    started = time.monotonic()
    while time.monotonic() - started < 0.9:
        worker.refresh()
        time.sleep(0.001)
    worker.close()
    # One at once, then one per period.
    assert 2 <= len(drawing.calls) <= 6
