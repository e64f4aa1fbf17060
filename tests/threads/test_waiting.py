"""When threads sleep and when they spin, that it changes no result, and where it is not possible."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from ldp_fast._threads import waiting
from ldp_fast._threads.waiting import FEW, MANY, QUIET_LOOKS, Judge

LOOK = 200_000_000  # nanoseconds


class Looks:
    """Looks at two threads that wait for a CPU for a share of the time."""

    def __init__(self) -> None:
        self.judge, self.now = Judge(), {"1": (0, 0), "2": (0, 0)}
        self.judge.look(self.now)

    def __call__(self, share: float, wanted: int = LOOK) -> bool:
        added = int((1 - share) * wanted), int(share * wanted)
        self.now = {name: (run + added[0], delay + added[1]) for name, (run, delay) in self.now.items()}
        return self.judge.look(self.now)


def test_threads_sleep_as_long_as_others_take_their_cpus() -> None:
    look = Looks()
    assert [look(share) for share in (0.0, MANY - 0.01, MANY + 0.01, 0.5)] == [False, False, True, True]
    assert [look(FEW - 0.01) for _ in range(QUIET_LOOKS)] == [True] * (QUIET_LOOKS - 1) + [False]
    # The share that threads have by waking up is not one that others cause.
    assert not look(MANY - 0.01)


def test_one_quiet_look_is_not_a_quiet_machine() -> None:
    look = Looks()
    assert look(0.5) and all(look(share) for share in [0.1, 0.5, 0.1] * 4)


def test_a_process_that_does_nothing_says_nothing() -> None:
    look = Looks()
    assert look(0.5)
    assert all(look(0.0, wanted=1000) for _ in range(10 * QUIET_LOOKS))


def test_threads_come_and_go() -> None:
    look = Looks()
    look.now = {"3": (10**12, 10**12)}
    assert not look.judge.look(look.now)


@pytest.mark.parametrize(
    ("threads", "cpus", "teams"), [(2, 2, 1), (64, 64, 1), (32, 64, 2), (2, 64, 63), (4, 2, 1), (8, 64, 9)]
)
def test_teams_outnumber_the_cpus(threads: int, cpus: int, teams: int) -> None:
    assert waiting.teams(threads, cpus) == teams
    assert threads + teams * (threads - 1) > cpus


def test_times_of_this_process(tmp_path: Path) -> None:
    for name, text in {"7": "5 6 1\n", "8": "", "9": "no numbers"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "schedstat").write_text(text)
    (tmp_path / "10").mkdir()
    assert waiting.times(tmp_path) == {"7": (5, 6)}
    assert waiting.observable(tmp_path) and not waiting.observable(tmp_path / "absent")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["/x/site-packages/torch/lib/libgomp.so.1"], "libgomp"),
        (["/x/torch.libs/libgomp-a34b3233.so.1.0.0"], "libgomp"),
        (["/x/sklearn/libgomp-1.so", "/x/lib/libiomp5.so", "/x/torch/lib/libomp.so"], "libomp"),
        (["/x/lib/libiomp5.so"], "libiomp5"),
        (["/x/lib/libm.so"], None),
    ],
)
def test_the_runtime_is_torch_s(tmp_path: Path, lines: list[str], expected: str | None) -> None:
    maps = tmp_path / "maps"
    maps.write_text("".join(f"7f00-7f01 r-xp 00000000 00:00 0     {line}\n" for line in lines))
    assert waiting.runtime(maps) == expected
    assert waiting.runtime(tmp_path / "absent") is None


def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which it is possible, whatever this one is."""
    monkeypatch.setattr(waiting, "observable", lambda: True)
    monkeypatch.setattr(waiting, "runtime", lambda: "libgomp")
    monkeypatch.setattr(waiting, "affinity", lambda: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("observable", False, "does not say"),
        ("runtime", "libomp", "runtime is libomp, not GNU's"),
        ("runtime", None, "unknown"),
        ("affinity", set(range(64)), "2 threads are few for 64 CPUs"),
    ],
)
def test_why_it_is_not_possible(monkeypatch: pytest.MonkeyPatch, name: str, value: Any, why: str) -> None:
    able(monkeypatch)
    assert waiting.unable() is None
    monkeypatch.setattr(waiting, name, lambda: value)
    assert why in str(waiting.unable())
    before = threading.active_count()
    with waiting.watched() as held:
        assert held is None and threading.active_count() == before


def test_a_single_thread_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert "single thread" in str(waiting.unable())


def threads_of_ours() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("ldp-fast-"))


def test_idle_teams_come_with_contention_and_end_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)
    busy, looked = threading.Event(), threading.Event()
    clock = {"1": (0, 0)}

    def times() -> dict[str, tuple[int, int]]:
        run, delay = clock["1"]
        clock["1"] = (run + LOOK, delay + (LOOK if busy.is_set() else 0))
        looked.set()
        return dict(clock)

    def wait_for(names: list[str]) -> None:
        for _ in range(1000):
            looked.clear()
            looked.wait(1)
            if threads_of_ours() == names:
                return
        raise AssertionError(f"expected {names}, got {threads_of_ours()}")

    monkeypatch.setattr(waiting, "times", times)
    a, b = torch.randn(64, 64), torch.randn(64, 64)
    expected = a @ b
    with waiting.watched(period=0.005):
        wait_for(["ldp-fast-watch"])
        busy.set()
        wait_for(["ldp-fast-idle", "ldp-fast-watch"])
        assert torch.equal(a @ b, expected)
        busy.clear()
        wait_for(["ldp-fast-watch"])
        busy.set()
        wait_for(["ldp-fast-idle", "ldp-fast-watch"])
    assert threads_of_ours() == []


def test_a_look_that_fails_ends_the_watch_and_not_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch)

    def fail() -> dict[str, tuple[int, int]]:
        raise OSError("no such file")

    monkeypatch.setattr(waiting, "times", fail)
    with waiting.watched(period=0.001):
        assert torch.ones(4).sum() == 4
    assert threads_of_ours() == []
