"""`make gpu`'s clock: order, limits, what a failure means, what is taken up again and what is not run twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import lines
from benchmarks.gpu import processes, schedule, stages
from benchmarks.gpu.__main__ import alone
from benchmarks.gpu.processes import Ended
from benchmarks.gpu.schedule import Book, Stage


class Clock:
    """Seconds that pass only where a stage says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Trial:
    """Stages whose runs take as long as they are told, and the order in which they ran."""

    def __init__(self, folder: Path, sources: str = "a"):
        self.clock, self.ran = Clock(), list[tuple[str, float]]()
        self.book = Book(folder / "stages.jsonl", folder / "tests.jsonl", sources, "a GPU")

    def stage(self, name: str, takes: float | list[float], code: int = 0, most: float = 60.0, **options) -> Stage:
        wanted = [takes] if isinstance(takes, float) else list(takes)

        def run(seconds: float) -> Ended:
            self.ran.append((name, round(seconds, 3)))
            need = wanted.pop(0)
            self.clock.now += min(need, seconds)
            return Ended(code, min(need, seconds), need > seconds, ("last words",))

        return Stage(name, run, most, **options)

    def run(self, *stages: Stage, seconds: float = 480.0, again: bool = False) -> list[schedule.Line]:
        return schedule.run(stages, seconds, self.book, again=again, clock=self.clock, say=lambda _: None)


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path)


def statuses(found: list[schedule.Line]) -> dict[str, str]:
    return {line.stage: line.status for line in found}


def test_nothing_stops_what_follows(trial: Trial) -> None:
    found = trial.run(trial.stage("a", 5.0, code=3), trial.stage("b", 999.0), trial.stage("c", 5.0))
    assert statuses(found) == {"a": "failed", "b": "stopped", "c": "passed"}
    assert [line.code for line in found] == [3, 0, 0] and found[0].why == "last words"
    assert [name for name, _ in trial.ran] == ["a", "b", "c"]


def test_what_the_machine_lacks_is_left_out_and_not_passed(trial: Trial) -> None:
    [found] = trial.run(trial.stage("a", 1.0, code=schedule.ABSENT_STATUS))
    assert found.status == "left out" and found.why == "last words"


def test_only_what_all_need_ends_the_run(trial: Trial) -> None:
    stages = [trial.stage("a", 5.0, code=1, needed=True), trial.stage("b", 5.0), trial.stage("z", 1.0, last=True)]
    assert statuses(trial.run(*stages)) == {"a": "failed"} and trial.ran == [("a", 60.0)]


def test_limits_grow_with_the_minutes_and_keep_what_is_the_last_s(trial: Trial) -> None:
    stages = [
        trial.stage("a", 1.0, most=60),
        trial.stage("b", 1.0, most=900),
        trial.stage("z", 1.0, most=20, last=True),
    ]
    trial.run(*stages, seconds=240.0)
    assert trial.ran == [("a", 30.0), ("b", 240.0 - 1.0 - 20.0), ("z", 20.0)]


def test_what_cannot_be_begun_is_left_out_and_says_why(trial: Trial) -> None:
    found = trial.run(trial.stage("a", 95.0, most=900), trial.stage("b", 1.0, least=10.0), seconds=100.0)
    assert statuses(found) == {"a": "passed", "b": "left out"} and found[1].why == "5 s were left, it wants 10"


def test_what_was_stopped_goes_on_when_time_is_left(trial: Trial) -> None:
    first = trial.stage("a", [999.0, 5.0], resumes=True)
    found = trial.run(first, trial.stage("b", 10.0), trial.stage("z", 1.0, most=10, last=True))
    assert trial.ran == [("a", 60.0), ("b", 60.0), ("a", 400.0), ("z", 10.0)]
    assert statuses(found) == {"a": "passed", "b": "passed", "z": "passed"} and found[0].seconds == 65.0


def test_a_failed_test_before_the_limit_is_a_failure(trial: Trial, tmp_path: Path) -> None:
    def run(seconds: float) -> Ended:
        for outcome in ("passed", "passed", "failed"):
            lines.add(trial.book.outcomes, {"stage": "a", "test": outcome, "outcome": outcome})
        return Ended(2, seconds, True, ())

    [found] = trial.run(Stage("a", run, 60.0))
    assert found.status == "failed" and found.cut and found.counts == {"passed": 2, "failed": 1}


def test_what_passed_is_not_run_again_unless_asked(tmp_path: Path) -> None:
    def go(sources: str = "a", **options) -> tuple[dict[str, str], list[str]]:
        trial = Trial(tmp_path, sources)
        stages = [trial.stage("a", 1.0), trial.stage("b", 1.0, code=1), trial.stage("c", 1.0, again=True)]
        return statuses(trial.run(*stages, **options)), [name for name, _ in trial.ran]

    assert go()[1] == ["a", "b", "c"]
    assert go() == ({"a": "passed before", "b": "failed", "c": "passed"}, ["b", "c"])
    assert go()[1] == ["b", "c"], "what passed before is still known"
    assert go(again=True)[1] == ["a", "b", "c"]
    assert go("other sources")[1] == ["a", "b", "c"]


def test_tests_that_passed_with_these_sources_are_known(trial: Trial) -> None:
    about = {"stage": "tests", "sources": "a", "machine": "a GPU"}
    for number, outcome in enumerate(("passed", "failed", "passed")):
        lines.add(trial.book.outcomes, {**about, "test": f"t{number}", "outcome": outcome})
    lines.add(trial.book.outcomes, {**about, "sources": "b", "test": "t3", "outcome": "passed"})
    assert trial.book.known("tests", skip=4) == {"t0", "t2"}
    assert trial.book.known("tests", skip=1) == {"t0", "t1", "t2"}, "of this run also what failed"
    assert trial.book.known("tests", skip=1, again=True) == {"t1", "t2"}
    assert trial.book.known("real size", skip=0) == set()


def python(*text: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(text)]


def run_process(tmp_path: Path, *text: str, seconds: float = 60.0, grace: float = 5.0) -> Ended:
    return processes.run(python(*text), seconds, tmp_path / "log", grace=grace)


def test_a_command_s_words_go_to_the_log_and_its_code_comes_back(tmp_path: Path, capsys) -> None:
    ended = run_process(tmp_path, "import sys", "print('out')", "print('err', file=sys.stderr)", "sys.exit(7)")
    assert ended.code == 7 and not ended.stopped and sorted(ended.tail) == ["err", "out"]
    assert (tmp_path / "log").read_text().split() == capsys.readouterr().out.split()
    assert processes.run(["/no/such/command"], 5, tmp_path / "log").code == 127


def test_a_command_is_interrupted_at_its_limit_and_may_write_what_it_has(tmp_path: Path) -> None:
    text = ["import time", "print('begun', flush=True)", "try:", "  time.sleep(60)", "finally:", "  print('written')"]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell
    try:
        ended = run_process(tmp_path, *text, seconds=2.0, grace=30.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended.stopped and ended.tail[0] == "begun" and "written" in ended.tail


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux' /proc for the process")
def test_nothing_that_a_command_started_outlives_it(tmp_path: Path) -> None:
    """Neither one that does not listen to interruptions, nor its child that holds the output open."""
    text = ["import os, signal, time", "signal.signal(signal.SIGINT, signal.SIG_IGN)", "child = os.fork()"]
    text += ["if child: print(child, flush=True)", "time.sleep(60)"]
    begun = time.monotonic()
    ended = run_process(tmp_path, *text, seconds=1.0, grace=0.5)
    assert ended.stopped and ended.code < 0 and time.monotonic() - begun < 20
    wait_for(lambda: gone(int(ended.tail[0])))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux ends a child with its parent")
def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    """It would keep the GPU, beside whatever is measured next."""
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    text = "import pathlib, sys\nfrom benchmarks.gpu.processes import run\n"
    text += f"log = pathlib.Path({str(tmp_path / 'log')!r})\nrun([sys.executable, '-c', {inner!r}], 60.0, log)\n"
    outer = subprocess.Popen([sys.executable, "-c", text], cwd=stages.ROOT, stdout=subprocess.PIPE, text=True)
    assert outer.stdout is not None
    child = int(outer.stdout.readline())
    outer.kill()
    outer.communicate()
    wait_for(lambda: gone(child))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_stops_no_command(tmp_path: Path) -> None:
    """More than a pipe holds: were the reading to stop, the command would wait until its limit."""
    command = [sys.executable, "-c", "for i in range(4000): print('x' * 70)\nprint('done')"]
    ended = processes.run(command, 60.0, Path("/dev/full"))
    assert (ended.code, ended.stopped, ended.tail[-1]) == (0, False, "done")


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    lock = alone(tmp_path)
    assert lock is not None and alone(tmp_path) is None
    assert [file.name for file in tmp_path.iterdir()] == ["log.txt"], "no file of its own among the eight"
    lock.close()
    again = alone(tmp_path)
    assert again is not None
    again.close()


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_a_child_that_is_left_behind_does_not_hold_the_run(tmp_path: Path) -> None:
    text = ["import os, time", "if os.fork() == 0: time.sleep(60)", "else: print('done', flush=True)"]
    begun = time.monotonic()
    ended = run_process(tmp_path, *text)
    assert ended.code == 0 and ended.tail == ("done",) and time.monotonic() - begun < 20
