"""What a run says of itself before its first step."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import socket
import time
import weakref

import pytest
import torch

from ldp_fast.apps.text_to_3d import sections as text_to_3d
from ldp_fast.errors import UsageError
from ldp_fast.runs import distributed, expectation, flags, loop
from ldp_fast.runs import folder as folders
from ldp_fast.runs.expectation import Expectation
from ldp_fast.runs.experiment import Application

from ..support import processes
from ..support.ranks import needs_gloo
from . import toy

STEPS = expectation.FEWEST + 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 second"),
        (41.4, "41 seconds"),
        (95, "2 minutes"),
        (3000, "50 minutes"),
        (6000, "1.7 hours"),
        (7200, "2 hours"),
        (40000, "11 hours"),
        (4e5, "5 days"),
        (1.6e10, "507 years"),
    ],
)
def test_durations_for_people(seconds: float, said: str) -> None:
    assert expectation.duration(seconds) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(20, "1 kB"), (4.2e5, "420 kB"), (4.84e7, "48 MB"), (3.16e9, "3.2 GB"), (1.49e12, "1.5 TB"), (2.5e15, "2,500 TB")],
)
def test_sizes_for_people(count: float, said: str) -> None:
    assert expectation.size(count) == said


def test_one_line_with_both() -> None:
    found = Expectation(250.0, {"UNet": 40_000_000, "rays": 8_000_000}, 21_000_000_000, "cpu")
    ends = f"48 MB of memory on cpu, where 21 GB are free; {expectation.AFTER}"
    assert found.fits and found.line() == f"its steps take about 4 minutes and {ends}"
    assert dataclasses.replace(found, seconds=None).line() == f"its steps take about {ends}"


def test_a_refusal_with_both() -> None:
    found = Expectation(6e6, {"field": 1, "rays": 7 * 10**11, "UNet": 9 * 10**11}, 21_000_000_000, "cpu")
    error = found.refusal("lower --size or --views")
    assert not found.fits and isinstance(error, UsageError) and found.largest == ["UNet", "rays"]
    assert str(error) == (
        "there is not enough memory on cpu: this run needs about 1.6 TB (UNet 900 GB, rays 700 GB) and 21 GB are "
        "free, and its steps would take about 69 days; lower --size or --views"
    )


def test_the_first_step_is_not_what_counts_unless_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    took = [0.05, 0.01]
    assert expectation.seconds_of(lambda: time.sleep(took.pop(0)), torch.device("cpu")) < 0.05
    monkeypatch.setattr(expectation, "LONG", 0.04)
    took = [0.05]
    assert expectation.seconds_of(lambda: time.sleep(took.pop(0)), torch.device("cpu")) >= 0.05


@pytest.mark.parametrize(
    ("memory", "largest"),
    [({}, []), ({"rays": 5}, ["rays"]), ({"field": 9, "rays": 91}, ["rays"]), ({"a": 1, "b": 2, "c": 3}, ["c", "b"])],
)
def test_what_takes_the_most(memory: dict[str, int], largest: list[str]) -> None:
    assert Expectation(None, memory, 10, "cpu").largest == largest


class Copy:
    """Of a run."""


@pytest.mark.parametrize("lacks", [False, True])
def test_a_rehearsal_leaves_nothing_and_may_lack_memory(lacks: bool) -> None:
    made: list[weakref.ref[Copy]] = []

    def rehearse() -> float:
        copy = Copy()
        copy.itself = copy  # type: ignore[attr-defined]
        made.append(weakref.ref(copy))
        if lacks:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return 3.0

    assert expectation.rehearsed(rehearse, torch.device("cpu")) == (None if lacks else 3.0)
    assert made[0]() is None


def test_a_rehearsal_hides_nothing_else() -> None:
    def rehearse() -> float:
        raise RuntimeError("another reason")

    with pytest.raises(RuntimeError, match="another reason"):
        expectation.rehearsed(rehearse, torch.device("cpu"))


@pytest.mark.parametrize(("steps", "asked"), [(expectation.FEWEST, 1), (expectation.FEWEST - 1, 0)])
def test_a_run_of_some_length_says_it_once(
    steps: int, asked: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[object] = []

    def expect(experiment: toy.Walk) -> Expectation:
        found.append(experiment.step)
        return Expectation(60.0, {"all": 10**6}, 10**9, "cpu")

    application = dataclasses.replace(toy.APPLICATION, expect=expect)
    assert loop.run(application, tmp_path / "walk", toy.Toy(steps=steps)) == 0
    said = "walk: its steps take about 60 seconds and 1 MB of memory on cpu, where 1 GB are free; "
    assert found == [0] * asked and capsys.readouterr().err.count(said) == asked


def test_of_a_resumed_run_what_is_left_counts(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, found = expectation.FEWEST + 5, list[int]()

    def expect(experiment: toy.Walk) -> Expectation:
        found.append(experiment.step)
        return Expectation(60.0, {}, 10**9, "cpu")

    application = dataclasses.replace(toy.APPLICATION, expect=expect)
    advance = toy.Walk.advance
    for last in (4, 6):  # then 21 steps are left, then 19

        def cut_off(self: toy.Walk, *args: object, last: int = last) -> None:
            if self.step == last:
                raise KeyboardInterrupt
            advance(self)

        monkeypatch.setattr(toy.Walk, "advance", cut_off)
        assert loop.run(application, tmp_path, toy.Toy(steps=steps)) == 130
    monkeypatch.setattr(toy.Walk, "advance", advance)
    assert loop.run(application, tmp_path, toy.Toy(steps=steps)) == 0
    assert found == [0, 4]


def signalled(number: int) -> Application:
    """The toy, which gets a signal while it is asked what it takes."""

    def expect(experiment: toy.Walk) -> Expectation:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not interrupt")

    return dataclasses.replace(toy.APPLICATION, expect=expect)


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != folders.LOCK)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.mark.skipif(os.name == "nt", reason="signals of Windows end the process")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_the_rehearsal_loses_nothing(
    number: int, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    application, run = signalled(number), tmp_path / "run"
    assert loop.run(application, run, toy.Toy(steps=STEPS)) == 130
    assert capsys.readouterr().err == "interrupted before the first step: nothing was written\n" and not run.exists()
    assert toy.run(run, steps=2) == 0
    before = contents(run)
    assert loop.run(application, run, toy.Toy(steps=STEPS), loop.Options(overwrite=True)) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"interrupted before the first step: what {run} holds is as it was" and contents(run) == before
    advance = toy.Walk.advance

    def cut_off(self: toy.Walk, *args: object) -> None:
        if self.step == 4:
            raise KeyboardInterrupt
        advance(self)

    monkeypatch.setattr(toy.Walk, "advance", cut_off)
    half = tmp_path / "half"
    assert toy.run(half, steps=STEPS) == 130
    before = contents(half)
    assert loop.run(application, half, toy.Toy(steps=STEPS)) == 130
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"interrupted before step 5; continue with: ldp-fast toy --resume {half}"
    assert contents(half) == before


def test_what_fails_before_the_first_step_does_not_cost_the_former_run(tmp_path: pathlib.Path) -> None:
    assert toy.run(tmp_path, steps=2) == 0
    before = contents(tmp_path)

    def expect(experiment: toy.Walk) -> Expectation:
        raise RuntimeError("a fault of the step")

    application, anew = dataclasses.replace(toy.APPLICATION, expect=expect), loop.Options(overwrite=True)
    with pytest.raises(RuntimeError, match="a fault of the step"):
        loop.run(application, tmp_path, toy.Toy(steps=STEPS), anew)
    assert contents(tmp_path) == before
    assert toy.run(tmp_path, anew, steps=3) == 0
    assert "checkpoints/step-000003.safetensors" in contents(tmp_path)


def two_ranks(folder: str, *ports: str) -> str:
    """What each of two ranks meets where the first one is interrupted, fails, and at last takes its time."""
    met = []

    def fail(experiment: toy.Walk) -> Expectation:
        raise UsageError("it does not fit")

    def wait(experiment: toy.Walk) -> Expectation:
        time.sleep(0.5)
        return Expectation(1.0, {}, 1, "cpu")

    interrupted = signalled(signal.SIGINT).expect
    cases = (("interrupted", interrupted), ("failed", fail), ("slow", wait))
    for port, (name, expect) in zip(ports, cases, strict=True):
        # One for each: who is slow to leave would meet the next group at the same.
        os.environ["MASTER_PORT"] = port
        application = dataclasses.replace(toy.APPLICATION, expect=expect)
        try:
            met.append(str(loop.run(application, pathlib.Path(folder) / name, toy.Toy(steps=STEPS))))
        except UsageError as error:
            met.append(str(error))
    return json.dumps(met)


@needs_gloo
@pytest.mark.skipif(os.name == "nt", reason="signals of Windows end the process")
def test_the_other_ranks_wait_for_the_rehearsal_and_hear_how_it_ends(tmp_path: pathlib.Path) -> None:
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(3)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        ports = [str(probe.getsockname()[1]) for probe in probes]
    both = [
        processes.Started(two_ranks, str(tmp_path), *ports, environment={**environment, "RANK": str(rank)})
        for rank in range(2)
    ]
    zero, one = (json.loads(process.wait().err.splitlines()[-1]) for process in both)
    assert zero == ["130", "it does not fit", "0"]
    assert one[::2] == ["130", "0"] and "rank 0" in one[1], one


def test_ranks_that_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, shared = torch.device("cpu"), distributed.on_this_device
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert shared(cpu, 4) == 1
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert [shared(cpu, world) for world in (1, 2, 3, 6)] == [1, 2, 3, 3]
    # Each may see a GPU of its own alone, which is the first one to it.
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert shared(torch.device("cuda", 0), 3) == 1


def test_how_a_field_is_set() -> None:
    class_of = text_to_3d.class_of({"method": "latent-nerf"})
    assert flags.how_to_set(class_of, "size") == "--size"
    assert flags.how_to_set(class_of, "refinement.size") == "--refinement-size"
    assert flags.how_to_set(class_of, "refinement.views") == "refinement.views (--config)"
    with pytest.raises(KeyError):
        flags.how_to_set(class_of, "refinement.resolution")
