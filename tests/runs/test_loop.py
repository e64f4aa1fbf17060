"""The loop, once for every application: resuming, kills, full disks, ranks, locks, divergence, interruption, record."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ldp_fast.errors import UsageError
from ldp_fast.runs import checkpoints, finishing, loop
from ldp_fast.runs import folder as folders
from ldp_fast.runs.folder import RunFolder

from ..support import processes
from ..support.ranks import needs_gloo
from . import toy


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert toy.run(folder) == 0
    return folder


def record(folder: pathlib.Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def same(a: pathlib.Path, b: pathlib.Path) -> bool:
    """Whether two runs ended with the same bytes."""
    last = [load_file(checkpoints.path_of(folder, checkpoints.steps(folder)[-1])) for folder in (a, b)]
    text = (a / "result.txt").read_bytes() == (b / "result.txt").read_bytes()
    return text and last[0].keys() == last[1].keys() and all(torch.equal(last[0][k], last[1][k]) for k in last[0])


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Does something at the end of a step."""

    def arrange(step: int, action: Callable[[], object]) -> None:
        original = toy.Walk.advance

        def advance(self: toy.Walk, *arguments: Any) -> None:
            original(self, *arguments)
            if self.step == step:
                action()

        monkeypatch.setattr(toy.Walk, "advance", advance)

    return arrange


def test_what_a_run_leaves(whole: pathlib.Path) -> None:
    found = record(whole)
    assert (found["application"], found["status"], found["step"], found["steps"]) == ("toy", "finished", 8, 8)
    assert found["seconds_per_step"] > 0 and found["process"] is None and found["last"]["distance"] > 0
    assert found["files"] == [*folders.ALWAYS, "result.txt"] and "left_out" not in found
    assert checkpoints.steps(whole) == [6, 8] and folders.application_of(whole) == "toy"
    assert "application: toy" in (whole / "config.yaml").read_text()
    assert {path.name for path in whole.iterdir()} == {
        *("config.yaml", "run.json", "checkpoints", "log", "result.txt", folders.LOCK)
    }


@contextlib.contextmanager
def handled(name: str, how: signal.Handlers) -> Iterator[None]:
    """A signal as a terminal leaves it, or as nohup does, whatever these tests were started with."""
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} here")
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else how)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("step", [1, 5, 8])
def test_every_signal_saves_and_the_run_goes_on_exactly(
    name: str, step: int, whole: pathlib.Path, tmp_path: pathlib.Path, at_step: Any, capsys: pytest.CaptureFixture
) -> None:
    with handled(name, signal.SIG_DFL):
        at_step(step, lambda: os.kill(os.getpid(), getattr(signal, name)))
        assert toy.run(tmp_path, loop.Options(resume="THIS")) == 130
    said = capsys.readouterr().err
    assert said.rstrip().endswith("with: THIS") and record(tmp_path)["status"] == "interrupted"
    assert record(tmp_path)["step"] == step == checkpoints.steps(tmp_path)[-1]
    assert toy.run(tmp_path) == 0 and same(tmp_path, whole)


def test_under_nohup_a_closed_terminal_does_not_stop_a_run(tmp_path: pathlib.Path, at_step: Any) -> None:
    with handled("SIGHUP", signal.SIG_IGN):
        at_step(3, lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert toy.run(tmp_path, loop.Options(resume="THIS")) == 0
    assert record(tmp_path)["status"] == "finished"


_ADVANCE = toy.Walk.advance


def test_a_second_ctrl_c_says_how_to_go_on(
    whole: pathlib.Path, tmp_path: pathlib.Path, at_step: Any, capsys: pytest.CaptureFixture
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(3, twice)
    assert toy.run(tmp_path, loop.Options(resume="THIS")) == 130
    said = capsys.readouterr().err
    assert "interrupted at once in step 4; continue at its last checkpoint, step 2, with: THIS" in said
    assert record(tmp_path)["status"] == "interrupted"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_products_are_made(
    name: str, whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def products(self: toy.Walk, folder: pathlib.Path) -> Any:
        def long() -> list[pathlib.Path]:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(60)
            return []

        return {"film": long}

    with monkeypatch.context() as patch:
        patch.setattr(toy.Walk, "products", products)
        assert toy.run(tmp_path, loop.Options(resume="THIS")) == 130
    assert "interrupted before all was written; make the rest with: THIS" in capsys.readouterr().err
    assert record(tmp_path)["status"] == "interrupted"
    assert toy.run(tmp_path) == 0 and same(tmp_path, whole)


def slowly(folder: str) -> int:
    """A run that another process can kill."""
    original = toy.Walk.advance

    def advance(self: toy.Walk, *arguments: Any) -> None:
        original(self, *arguments)
        time.sleep(0.1)

    toy.Walk.advance = advance  # type: ignore[method-assign]
    return toy.run(pathlib.Path(folder))


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_goes_on_and_its_lock_is_free(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    process = processes.Started(slowly, str(run))
    until(lambda: checkpoints.steps(run) != [])
    with pytest.raises(UsageError, match=rf"is being written by process {process.pid} on {socket.gethostname()}"):
        toy.run(run)
    process.kill()
    process.wait()
    assert record(run)["status"] == "running" and record(run)["step"] < 8
    # What it was writing when it was killed, in this and in the former way of naming; and what others are writing.
    gone = [run / f".config.yaml.{process.pid}.part", run / f".run.json@{_host()}.{process.pid}.part"]
    gone.append(run / "checkpoints" / f".step-000004.safetensors@elsewhere.{process.pid}.part")
    stays = [run / f".mesh.obj@{_host()}.{os.getppid()}.part", run / ".views.png@elsewhere.77.part", run / ".mine.part"]
    for path in (*gone, *stays):
        path.write_text("half")
    os.utime(gone[-1], (1, 1))
    assert toy.run(run) == 0 and same(run, whole)
    assert not any(path.exists() for path in gone) and all(path.exists() for path in stays)


def _host() -> str:
    from ldp_fast.runs import files

    return files.host()


def test_a_lock_that_a_dead_process_of_another_host_left(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """The lock is the operating system's: the file alone, and a record that says `running`, hold nothing."""
    assert toy.run(tmp_path, steps=8) == 0
    (tmp_path / folders.LOCK).write_text("")
    found = {**record(tmp_path), "status": "running", "process": {"pid": 1, "host": "elsewhere"}}
    (tmp_path / "run.json").write_text(json.dumps(found))
    assert toy.run(tmp_path) == 0 and same(tmp_path, whole)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("when", range(1, 9))
def test_a_full_disk_loses_nothing(
    call: str, when: int, whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file does not fit any more."""
    original, calls = getattr(os, call), []

    def until_full(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) >= when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, until_full)
        with pytest.raises(OSError, match="space") as caught:
            toy.run(tmp_path)
    assert caught.value.filename and not list(tmp_path.rglob(".*.part"))
    for step in checkpoints.steps(tmp_path):
        checkpoints.read(checkpoints.path_of(tmp_path, step), toy.Toy().fingerprint())
    assert toy.run(tmp_path) == 0 and same(tmp_path, whole)


def test_what_diverges_is_not_kept(
    whole: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(step: int) -> None:
        original = _ADVANCE

        def advance(self: toy.Walk, *arguments: Any) -> None:
            original(self, *arguments)
            if self.step >= step:
                self.place.data.fill_(float("nan"))

        monkeypatch.setattr(toy.Walk, "advance", advance)

    spoil(1)
    with pytest.raises(FloatingPointError, match="diverged before step 2: the place is not finite; lower"):
        toy.run(tmp_path / "early")
    spoil(5)
    with pytest.raises(FloatingPointError, match="its last checkpoint, of step 4, is from before; lower"):
        toy.run(tmp_path / "late")
    assert checkpoints.steps(tmp_path / "late") == [2, 4]
    found = record(tmp_path / "late")
    assert (found["status"], found["step"], found["process"]) == ("diverged", 6, None)
    # It goes on from what is whole, and says the same again.
    with pytest.raises(FloatingPointError, match="diverged before step 6: "):
        toy.run(tmp_path / "late")
    assert checkpoints.steps(tmp_path / "late") == [2, 4] and record(tmp_path / "late")["status"] == "diverged"
    monkeypatch.setattr(toy.Walk, "advance", _ADVANCE)
    assert toy.run(tmp_path / "late") == 0 and same(tmp_path / "late", whole)


def test_an_interruption_keeps_nothing_that_diverged(tmp_path: pathlib.Path, at_step: Any) -> None:
    def both(self: toy.Walk) -> list[str]:
        return ["the place is"] if self.step == 3 else []

    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy.Walk, "not_finite", both)
        with pytest.raises(FloatingPointError, match="diverged before step 3: "):
            toy.run(tmp_path, keep=1)
    assert checkpoints.steps(tmp_path) == [2]


def test_the_last_few_are_kept_and_what_is_not_ours(tmp_path: pathlib.Path, at_step: Any) -> None:
    mine = tmp_path / "checkpoints" / "mine.safetensors"
    at_step(3, lambda: mine.write_text("years of work"))
    assert toy.run(tmp_path, checkpoint_every=1, keep=3) == 0
    assert checkpoints.steps(tmp_path) == [6, 7, 8] and mine.read_text() == "years of work"


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda data: data[:-100],
    "a bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
    "header": lambda data: data[:50],
    "garbage": lambda data: b"\xff" * 500,
    "empty": lambda data: b"",
    "folder": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_changes_nothing(
    damage: str, whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = pathlib.Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "run.json").unlink()  # as killed after its last checkpoint
    path = checkpoints.path_of(run, 8)
    data = DAMAGES[damage](path.read_bytes())
    path.unlink()
    if data is None:
        path.mkdir()
    else:
        path.write_bytes(data)

    def contents() -> dict[pathlib.Path, bytes]:
        return {found: found.read_bytes() for found in run.rglob("*") if found.is_file() and found.parent.name != "log"}

    before = contents()
    with pytest.raises(UsageError, match=r"is damaged \(.*; delete it to go on from the one before it") as raised:
        toy.run(run)
    assert str(path) in str(raised.value) and contents() == before
    if data is None:
        path.rmdir()
    else:
        path.unlink()
    assert toy.run(run) == 0 and same(run, whole)


def test_not_enough_memory_says_what_to_lower(tmp_path: pathlib.Path, at_step: Any) -> None:
    def exhaust() -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    at_step(1, exhaust)
    with pytest.raises(UsageError, match=r"^there is not enough memory: lower --parts \("):
        toy.run(tmp_path)


@pytest.mark.parametrize("damage", ["read-only", "deleted", "full"])
def test_a_log_that_cannot_be_written_is_said_once(
    damage: str, whole: pathlib.Path, tmp_path: pathlib.Path, at_step: Any, capsys: Any, monkeypatch: Any
) -> None:
    from ldp_fast.runs import log

    monkeypatch.setattr(log, "FLUSH_EVERY", 0.0)
    run = tmp_path / "run"
    if damage == "read-only":
        run.mkdir()
        (run / "log").write_text("a file where a folder should be")
        RunFolder(run, toy.APPLICATION)  # knows nothing of it
        (run / "config.yaml").write_text("format: 1\napplication: toy\n")
    elif damage == "deleted":
        at_step(2, lambda: shutil.rmtree(run / "log"))
    else:

        def fill() -> None:
            def no_room(*_: Any) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", no_room)

        at_step(2, fill)
    assert toy.run(run) == 0 and same(run, whole)
    said = capsys.readouterr().err
    assert said.count("is left out") == (damage != "deleted") and "Traceback" not in said


def test_products_that_cannot_be_made_do_not_take_the_rest_along(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    original = toy.Walk.products

    def products(self: toy.Walk, folder: pathlib.Path) -> Any:
        def fails() -> list[pathlib.Path]:
            raise RuntimeError("no such luck")

        def lacks() -> list[pathlib.Path]:
            raise ModuleNotFoundError("no av", name="av")

        return {"film": lacks, "mesh": fails, "views": fails, **original(self, folder)}

    monkeypatch.setattr(toy.Walk, "products", products)
    assert toy.run(tmp_path, loop.Options(without=("views",))) == 0
    expected = {
        "film": "av is not installed: pip install 'ldp-fast[apps]'",
        "mesh": "no such luck",
        "views": "--no-views",
    }
    assert record(tmp_path)["left_out"] == expected and (tmp_path / "result.txt").exists()
    assert all(f"{name}: left out: {reason}" in capsys.readouterr().err for name, reason in list(expected.items())[:1])


def test_many_files_of_a_folder_are_counted(tmp_path: pathlib.Path) -> None:
    samples = [tmp_path / "samples" / f"{index}.png" for index in range(finishing.MANY + 1)]
    few = [tmp_path / "few" / f"{index}.png" for index in range(2)]
    found = finishing.listed([tmp_path / "a.png", *samples, *few])
    assert found == [str(tmp_path / "a.png"), f"{tmp_path / 'samples'} ({finishing.MANY + 1} files)", *map(str, few)]


def test_another_run_is_not_mixed_with_this(whole: pathlib.Path) -> None:
    with pytest.raises(UsageError, match=r"holds another run \(goal, seed\)"):
        toy.run(whole, goal=4.0, seed=2)
    assert toy.run(whole, checkpoint_every=1, keep=1) == 0


def ranks_of_two(folder: str) -> int:
    return toy.run(pathlib.Path(folder), parts=3)


@needs_gloo
def test_two_ranks_are_one_run(tmp_path: pathlib.Path, free_port: int) -> None:
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    both = [
        processes.Started(
            ranks_of_two, str(tmp_path / "two"), environment={**os.environ, **environment, "RANK": str(r)}
        )
        for r in range(2)
    ]
    for process in both:
        code, _, said = process.wait()
        assert code == 0, said
    assert toy.run(tmp_path / "one", parts=3) == 0
    one, two = (load_file(checkpoints.path_of(tmp_path / name, 8))["place"] for name in ("one", "two"))
    torch.testing.assert_close(one, two)
