"""`ldp-fast sweep`: its plan, its records, resuming, failures, ranks, the table, and its errors."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps.evaluate import retrieval
from ldp_fast.apps.options import load_prior
from ldp_fast.apps.sweep import command as sweep
from ldp_fast.apps.sweep import table as sweep_table
from ldp_fast.apps.text_to_3d import run as text_to_3d
from ldp_fast.errors import UsageError
from ldp_fast.runs.loop import Options
from ldp_fast.zoo.captions import random_prompts

from ..support import processes
from .sweep_stand_ins import Loader, Runner

PROMPTS = "# colours\n\na red cube\n  a green   torus \n"


WRITE_SHEETS = sweep_table.write_sheets


def without_measuring(*args: Any, **kwargs: Any) -> Any:
    """`evaluate_r_precision`'s place where its seconds are not what is tested."""
    raise UsageError("not in this test")


@pytest.fixture
def start(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the command on two prompts with a runner of ours in place of the real one; no R-Precision, no sheets."""
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    monkeypatch.setattr(sweep_table, "evaluate_r_precision", without_measuring)
    monkeypatch.setattr(sweep_table, "write_sheets", lambda store, rows: [])
    monkeypatch.setattr(text_to_3d, "load_prior", load_once)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def run(runner: Runner, *words: str, source: str | None = "prompts.txt", out: str = "out") -> int:
        monkeypatch.setattr(sweep.loop, "run", lambda application, *arguments: runner(*arguments))
        given = [] if source is None else [str(tmp_path / source)]
        return cli.main(["sweep", *given, "--out", str(tmp_path / out), "--device", "cpu", *words])

    return run


PRIORS: dict[str, Any] = {}


def load_once(configuration: Any, device: str | None = None) -> Any:
    name = configuration.model
    if name not in PRIORS:
        PRIORS[name] = load_prior(configuration)
    return PRIORS[name]


def statuses(folder: pathlib.Path) -> dict[str, str]:
    return {job["folder"]: job["status"] for job in json.loads((folder / "jobs.json").read_text())["jobs"]}


BOTH = ("--method", "latent-nerf", "jacobian-nerf")
ONE = ("--method", "latent-nerf")


def test_every_combination_is_made_once_and_the_table_says_how(
    start: Callable, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    evaluate = functools.partial(retrieval.evaluate_r_precision, load=Loader())
    monkeypatch.setattr(sweep_table, "evaluate_r_precision", evaluate)
    monkeypatch.setattr(sweep_table, "write_sheets", WRITE_SHEETS)
    runner = Runner()
    assert start(runner, *BOTH, "--losses", "lsd", "full", "--seeds", "3", "--steps", "9") == 0
    assert len(runner.calls) == 8 == len(set(runner.calls))
    # "a green   torus" is the same prompt as "a green torus".
    assert {"a-red-cube-latent-nerf-lsd-seed3", "a-green-torus-jacobian-nerf-seed3"} < set(runner.calls)
    assert set(statuses(tmp_path / "out").values()) == {"finished"}
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["folder"] for row in table["jobs"]] == runner.calls
    assert all(row["steps"] == 7 and row["seconds"] >= 0 and len(row["hits"]) == 3 for row in table["jobs"])
    rows = table["r_precision"]["rows"]
    assert [(row["method"], row["losses"]) for row in rows] == [
        (method, losses) for method in ("jacobian-nerf", "latent-nerf") for losses in ("LSD", "LSD + FM + KL")
    ]
    assert all((row["lambda_fm"] == row["lambda_kl"] == 0) == (row["losses"] == "LSD") for row in rows)
    text = (tmp_path / "out" / "table.md").read_text()
    assert text in capsys.readouterr().out and text.count("| finished ") == 8
    assert min(Image.open(tmp_path / "out" / "views.png").size) > 200
    assert not list((tmp_path / "out").rglob(".*")), "no part of a file is left"
    assert not (tmp_path / "out" / "views-2.png").exists()


def test_the_same_command_continues(start: Callable, tmp_path: pathlib.Path) -> None:
    stop = Runner(lambda c: 130 if c.prompt == "a green torus" else None)
    assert start(stop, *ONE, "--seeds", "0", "1") == 130
    assert stop.calls == [
        "a-red-cube-latent-nerf-seed0",
        "a-red-cube-latent-nerf-seed1",
        "a-green-torus-latent-nerf-seed0",
    ]
    assert sorted(statuses(tmp_path / "out").values()) == ["finished", "finished", "interrupted", "waiting"]
    assert not (tmp_path / "out" / "table.md").exists()
    again = Runner()
    assert start(again, *ONE, "--seeds", "0", "1") == 0
    assert again.calls == ["a-green-torus-latent-nerf-seed0", "a-green-torus-latent-nerf-seed1"]
    before = (tmp_path / "out" / "table.json").read_bytes()
    assert start(done := Runner(), *ONE, "--seeds", "0", "1") == 0
    assert start(done, *ONE, "--seeds", "0", "1", "--keep", "5") == 0, "which no result depends on"
    assert not done.calls and (tmp_path / "out" / "table.json").read_bytes() == before
    # A prompt more, and a method more, in the same folder.
    (tmp_path / "prompts.txt").write_text(PROMPTS + "a white cone\n")
    assert start(more := Runner(), *BOTH, "--seeds", "0", "1") == 0
    assert len(more.calls) == 12 - 4


def test_a_run_that_finished_before_it_was_recorded_is_kept(start: Callable, tmp_path: pathlib.Path) -> None:
    assert start(Runner(), *ONE) == 0
    record = tmp_path / "out" / "jobs" / "a-red-cube-latent-nerf-seed0.json"
    record.write_text(record.read_text().replace('"finished"', '"running"'))
    assert start(again := Runner(), *ONE) == 0
    assert not again.calls and set(statuses(tmp_path / "out").values()) == {"finished"}


@pytest.mark.parametrize(
    "error", [FloatingPointError("a loss is NaN"), torch.OutOfMemoryError("no memory"), TypeError("a fault")]
)
def test_one_failure_does_not_stop_the_others(
    error: Exception, start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    runner = Runner(lambda c: error if c.prompt == "a red cube" else None)
    assert start(runner, *ONE) == 1
    assert len(runner.calls) == 2
    assert statuses(tmp_path / "out") == {
        "a-green-torus-latent-nerf-seed0": "finished",
        "a-red-cube-latent-nerf-seed0": "failed",
    }
    said = capsys.readouterr()
    assert f"{type(error).__name__}: {error}" in said.err and "1 of 2 jobs failed" in said.err
    assert f"failed: {type(error).__name__}: {error}" in (tmp_path / "out" / "table.md").read_text()
    record = json.loads((tmp_path / "out" / "jobs" / "a-red-cube-latent-nerf-seed0.json").read_text())
    assert "Traceback" in record["traceback"][0]
    assert start(again := Runner(), *ONE) == 0, "what failed is tried again"
    assert again.calls == ["a-red-cube-latent-nerf-seed0"]
    assert "failed" not in (tmp_path / "out" / "table.md").read_text()


def test_ctrl_c_outside_of_training_is_recorded(start: Callable, tmp_path: pathlib.Path) -> None:
    class Interrupted(Runner):
        def __call__(self, *args: Any, **kwargs: Any) -> int:
            raise KeyboardInterrupt

    assert start(Interrupted(), *ONE) == 130
    assert statuses(tmp_path / "out")["a-red-cube-latent-nerf-seed0"] == "interrupted"
    assert start(Runner(), *ONE) == 0


def test_what_is_not_wanted_is_not_made(start: Callable, tmp_path: pathlib.Path) -> None:
    class Noting(Runner):
        def __call__(self, folder: pathlib.Path, configuration: Any, options: Options) -> int:
            self.without = options.without
            return super().__call__(folder, configuration, options)

    assert start(runner := Noting(), *ONE, "--no-mesh") == 0 and runner.without == ("mesh",)
    assert start(runner := Noting(), *ONE, "--no-film", "--no-mesh", out="both") == 0
    assert runner.without == ("film", "mesh")


@pytest.mark.parametrize("words", [["--app", "synthesize"], ["--applic=synthesize"], ["--application=synthesize"]])
def test_an_application_may_be_named_in_short(words: list[str]) -> None:
    parser = cli.parser_of(sweep, "sweep", ["prompts.txt", *words])
    assert "--no-mesh" not in parser._option_string_actions
    found = parser.parse_args(["prompts.txt", "--out", "out", *words, "--learning-rate", "0.5"])
    assert found.application == "synthesize"
    assert sweep._application(["--", *words]) == "text-to-3d"


def test_random_prompts_need_no_file(start: Callable, tmp_path: pathlib.Path) -> None:
    assert start(runner := Runner(), *ONE, "--random-prompts", "3", "--prompt-seed", "5", source=None) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["prompt"] for row in table["jobs"]] == random_prompts(3, 5) and len(runner.calls) == 3


def test_prompts_that_look_alike_have_folders_of_their_own(start: Callable, tmp_path: pathlib.Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red cube\na red cube, front view\nA red cube\na red cube front view\n")
    assert start(runner := Runner(), *ONE) == 0
    assert len(set(runner.calls)) == 4 and runner.calls[0] == "a-red-cube-latent-nerf-seed0"


def test_r_precision_that_cannot_be_measured_is_said(
    start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    assert start(runner := Runner(), *ONE, "--clip", "/nowhere/clip") == 2 and not runner.calls
    assert "--clip: there is no folder '/nowhere/clip'" in capsys.readouterr().err
    assert start(Runner(), *ONE) == 0
    assert "R-Precision could not be measured: not in this test" in (tmp_path / "out" / "table.md").read_text()
    assert json.loads((tmp_path / "out" / "table.json").read_text())["jobs"][0]["hits"] is None


def test_other_settings_are_refused_before_anything_runs(
    start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    assert start(Runner(), *ONE, "--steps", "9") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert start(runner := Runner(), *ONE, "--steps", "10", "--guidance-scale", "9") == 2
    error = capsys.readouterr().err
    assert "with other settings (settings.guidance_scale, steps)" in error and len(error.splitlines()) == 1
    assert not runner.calls
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_foreign_folders_are_refused(start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert start(Runner(), *ONE, out="mine") == 2
    assert "is not empty and does not hold a sweep" in capsys.readouterr().err
    assert start(Runner(), *ONE, out="prompts.txt") == 2
    assert "--out: expected a folder" in capsys.readouterr().err
    assert start(Runner(), *ONE) == 0
    capsys.readouterr()
    (tmp_path / "out" / "a-red-cube-latent-nerf-seed7").mkdir()
    assert start(Runner(), *ONE, "--seeds", "7") == 2
    assert "was not made by this sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "prompts.txt: there is no such file"),
        (b"", "prompts.txt: expected one prompt a line, got none"),
        (b"# only\n\n   \n", "prompts.txt: expected one prompt a line, got none"),
        (b"a red cube\na r\xe9d cube\n", "prompts.txt:2: expected UTF-8, got byte 0xe9"),
        (b"a red cube\n\x00\x01\n", "prompts.txt:2: expected text, got a zero byte"),
        (b"# x\na red cube\na pink elephant\n", "prompts.txt:3: prompt: the embedded model does not know 'pink'"),
    ],
)
def test_a_bad_file_of_prompts_is_told_with_its_line(
    content: bytes | None, message: str, start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "prompts.txt").unlink()
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    assert start(runner := Runner(), *ONE) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not runner.calls and not (tmp_path / "out").exists()


def test_repeated_prompts_are_told_and_made_once(
    start: Callable, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbfa red cube\r\na green torus\r\na  red cube\r\n")
    assert start(runner := Runner(), *ONE, "--seeds", "0", "0") == 0
    assert len(runner.calls) == 2
    assert "prompts.txt:3: 'a red cube' stands at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "source", "message"),
    [
        (ONE, None, "expected a file with one prompt a line, or --random-prompts N"),
        ((*ONE, "--random-prompts", "3"), "prompts.txt", "and not both"),
        ((*ONE, "--prompt-seed", "3"), "prompts.txt", "--prompt-seed: it is the seed of --random-prompts"),
        ((*ONE, "--random-prompts", "2", "--prompt-seed", "-3"), None, "--prompt-seed: expected a whole number of at"),
        ((*ONE, "--random-prompts", "0"), None, "--random-prompts: expected 1 to 417"),
        ((*ONE, "--random-prompts", "2", "--model", "a/b"), None, "expected the embedded model, got a/b; give a file"),
        (("--method", "nerf"), "prompts.txt", "nerf"),
        ((*ONE, "--losses", "fm"), "prompts.txt", "--losses: expected some of lsd, lsd-fm, lsd-kl, full; got 'fm'"),
        ((*ONE, "--losses", "lsd-kl", "full", "--lambda-fm", "0"), "prompts.txt", "lsd-kl and full are the same"),
        (
            (*ONE, "--seeds", "-2"),
            "prompts.txt",
            "--seeds: expected a whole number from 0 to less than 2147483648",
        ),
        ((*ONE, "--model", "primitive"), "prompts.txt", "neither an embedded model"),
        ((*ONE, "--views", "0"), "prompts.txt", "--views: expected a whole number of at least 1, got 0"),
    ],
)
def test_errors_are_one_line(
    words: tuple[str, ...],
    source: str | None,
    message: str,
    start: Callable,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture,
) -> None:
    assert start(runner := Runner(), *words, source=source) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1, error
    assert not runner.calls and not (tmp_path / "out").exists()


def rank_of_a_sweep(words: list[str], slow: float) -> int:
    """Fails at the red cube, and takes its time for every job."""

    def fail(configuration: dict[str, Any]) -> Exception | None:
        time.sleep(slow)
        return FloatingPointError("a loss is NaN") if configuration.prompt == "a red cube" else None

    runner = Runner(fail)
    sweep.loop.run = lambda application, *arguments: runner(*arguments)  # type: ignore[assignment]
    sweep_table.evaluate_r_precision = without_measuring
    code = cli.main(words)
    print("made", *runner.calls)
    return code


def ranks(tmp_path: pathlib.Path, slow: tuple[float, float]) -> list[tuple[int, set[str]]]:
    """Two plain processes with torchrun's variables: the exit code of each, and what it made."""
    (tmp_path / "prompts.txt").write_text("a red cube\na green torus\na white cone\na blue sphere\na cyan cube\n")
    words = ["sweep", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out"), "--device", "cpu", *ONE]
    started = []
    for rank in range(2):
        variables = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        variables["TORCHELASTIC_RUN_ID"] = "none"
        started.append(processes.Started(rank_of_a_sweep, words, slow[rank], environment=variables))
    found = []
    for process in started:
        code, output, _ = process.wait()
        made = next(line for line in output.splitlines() if line.startswith("made"))
        found.append((code, set(made.split()[1:])))
    return found


def test_two_ranks_share_the_jobs_and_the_last_makes_the_table(tmp_path: pathlib.Path) -> None:
    (first, by_first), (second, by_second) = ranks(tmp_path, slow=(0.0, 1.5))
    assert not by_first & by_second and len(by_first) == 3 and len(by_second) == 2
    # Under torchrun only the last one to end may return 1, for the others would be ended with it.
    assert (first, second) == (0, 1)
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["status"] for row in table["jobs"]] == ["failed", *["finished"] * 4]
    assert sum(statuses(tmp_path / "out")[name] == "finished" for name in by_first | by_second) == 4
    assert not list((tmp_path / "out").rglob(".*"))


def test_ranks_can_run_one_after_the_other(
    start: Callable, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert start(second := Runner(), *ONE) == 0
    assert second.calls == ["a-green-torus-latent-nerf-seed0"] and not (tmp_path / "out" / "table.md").exists()
    assert "(RANK=1 WORLD_SIZE=2 are set; if there is no other process, `unset RANK" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "0")
    assert start(first := Runner(lambda c: FloatingPointError("NaN")), *ONE) == 1
    assert first.calls == ["a-red-cube-latent-nerf-seed0"] and (tmp_path / "out" / "table.md").exists()
    monkeypatch.setenv("RANK", "1")
    assert start(third := Runner(), *ONE) == 1 and not third.calls, "the failure stands until rank 0 mends it"
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("WORLD_SIZE", "none")
    assert start(Runner(), *ONE) == 2


@pytest.mark.usefixtures("quick_products")
def test_a_small_sweep_end_to_end(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing stands in here: real runs of the embedded model, real views, the real CLIP."""
    small = ["--steps", "2", "--views", "1", "--size", "8", "--voxels", "16", "--steps-per-ray", "16"]
    small += ["--device", "cpu"]
    words = ["--random-prompts", "1", "--method", "jacobian-nerf", "--losses", "lsd", "full", *small]
    words = ["sweep", *words, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [(job["status"], job["steps"], job["losses"]) for job in table["jobs"]] == [
        ("finished", 2, "lsd"),
        ("finished", 2, "full"),
    ]
    assert all(len(job["hits"]) == 3 for job in table["jobs"]) and len(table["r_precision"]["rows"]) == 2
    views = sorted((tmp_path / "out" / "evaluation").glob("*.png"))
    width, height = Image.open(views[0]).size
    assert len(views) == 6 and width == height == 2 * 8 * 8, "twice the latents of training, decoded"
    for job in table["jobs"]:
        left = {path.name for path in (tmp_path / "out" / job["folder"]).iterdir()}
        assert {"views.png", "depth.png", "opacity.png", "normals.png", "turntable.gif"} < left
    written = (tmp_path / "out" / "evaluation.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["evaluate", "r-precision", str(tmp_path / "out")]) == 0
    assert "| jacobian-nerf " in capsys.readouterr().out
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == written
    assert sorted((tmp_path / "out" / "evaluation").glob("*.png")) == views
    assert cli.main(words) == 0 and json.loads((tmp_path / "out" / "table.json").read_text()) == table
