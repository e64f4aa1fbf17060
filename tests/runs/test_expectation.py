"""What a run says of itself before its first step."""

import dataclasses
import pathlib
import time

import pytest
import torch

from ldp_fast.errors import UsageError
from ldp_fast.runs import expectation, loop
from ldp_fast.runs.expectation import Expectation

from . import toy


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
    assert found.fits and found.line() == "about 4 minutes and 48 MB of memory on cpu, where 21 GB are free"
    assert dataclasses.replace(found, seconds=None).line() == "about 48 MB of memory on cpu, where 21 GB are free"


def test_a_refusal_with_both() -> None:
    found = Expectation(6e6, {"field": 1, "rays": 7 * 10**11, "UNet": 9 * 10**11}, 21_000_000_000, "cpu")
    error = found.refusal("--size or --views")
    assert not found.fits and isinstance(error, UsageError)
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
    said = "walk: about 60 seconds and 1 MB of memory on cpu, where 1 GB are free\n"
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
