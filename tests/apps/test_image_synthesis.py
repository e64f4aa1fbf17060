"""`ldp-fast synthesize`: what it leaves, that it resumes exactly, that nothing is lost, and its errors."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldp_fast import cli

from ..support import processes


@pytest.fixture
def model(small_model: str) -> str:
    return small_model


def arguments(model: str, out: pathlib.Path, *more: str, steps: int = 6) -> list[str]:
    common = ["--model", model, "--device", "cpu", "--guidance-scale", "3", "--out", str(out)]
    return ["synthesize", "abc", *common, "--steps", str(steps), "--checkpoint-every", "2", *more]


def run(words: list[str]) -> int:
    """The command's exit code, whether it returns it or raises it."""
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_one_prompt_leaves_picture_losses_and_record(model: str, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    assert run(arguments(model, out, "--preview", "3")) == 0
    assert Image.open(out / "image.png").size == (64, 64)
    assert Image.open(out / "preview.png").size == (64, 64)
    assert Image.open(out / "losses.png").size[0] > 500
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 6
    assert record["configuration"]["settings"]["lambda_fm"] == 3.0
    assert record["configuration"]["seeds"] == [0] and record["versions"]["torch"] == torch.__version__
    assert not list(out.glob(".*.part"))
    history = load_file(out / "checkpoint.safetensors")["history"]
    assert history.shape[0] == 6 and torch.isfinite(history).all()


def test_several_prompts_and_seeds_do_not_depend_on_their_batch(model: str, tmp_path: pathlib.Path) -> None:
    words = arguments(model, tmp_path / "many", "--seeds", "0", "5")
    words.insert(2, "xyz")
    assert run(words) == 0
    assert len(list((tmp_path / "many" / "images").glob("*.png"))) == 4
    assert Image.open(tmp_path / "many" / "image.png").size == (128, 128)
    assert run(arguments(model, tmp_path / "one", "--seeds", "5")) == 0
    many = load_file(tmp_path / "many" / "checkpoint.safetensors")["latents"]
    one = load_file(tmp_path / "one" / "checkpoint.safetensors")["latents"]
    # AdamW's first steps divide small numbers by small numbers, so rounding shows a little.
    torch.testing.assert_close(many[1], one[0], rtol=1e-2, atol=1e-2)
    assert (many[0] - many[1]).abs().max() > 0.1


def test_resume_continues_exactly(model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(arguments(model, tmp_path / "whole")) == 0
    from ldp_fast.apps import latents

    original, calls = latents.LatentOptimiser.advance, []

    def interrupted_advance(self: latents.LatentOptimiser) -> None:
        original(self)
        calls.append(self.step)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(latents.LatentOptimiser, "advance", interrupted_advance)
    assert run(arguments(model, tmp_path / "parts")) == 130
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["step"] == 3
    assert run(["synthesize", "--resume", str(tmp_path / "parts")]) == 0
    assert calls == [1, 2, 3, 4, 5, 6]
    whole, parts = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    assert (tmp_path / "whole" / "image.png").read_bytes() == (tmp_path / "parts" / "image.png").read_bytes()


def test_kill_resumes_from_the_last_checkpoint(model: str, tmp_path: pathlib.Path) -> None:
    assert run(arguments(model, tmp_path / "whole", steps=40)) == 0
    out = tmp_path / "killed"
    process = processes.Started(run, arguments(model, out, steps=40))
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert (out / "checkpoint.safetensors").exists()
    assert run(["synthesize", "--resume", str(out)]) == 0
    whole, killed = (load_file(folder / "checkpoint.safetensors")["latents"] for folder in (tmp_path / "whole", out))
    torch.testing.assert_close(whole, killed, rtol=1e-2, atol=1e-2)


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    assert run([*arguments(model, out, "--learning-rate", "1e30"), "--checkpoint-every", "1"]) == 2
    assert "diverged before step" in capsys.readouterr().err and not (out / "image.png").exists()
    kept = load_file(out / "checkpoint.safetensors") if (out / "checkpoint.safetensors").exists() else {}
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert json.loads((out / "run.json").read_text())["status"] != "finished"


def test_a_run_is_not_replaced_unless_asked(model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    assert run(arguments(model, out, steps=1)) == 0
    before = (out / "image.png").read_bytes()
    assert run(arguments(model, out, "--seeds", "9", steps=1)) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (out / "image.png").read_bytes() == before
    assert run(arguments(model, out, "--seeds", "9", "--overwrite", steps=1)) == 0
    assert (out / "image.png").read_bytes() != before
    kept = (out / "image.png").read_bytes()
    assert run(arguments(model, out, "--levels", "up9", "--overwrite", steps=1)) == 2
    assert (out / "image.png").read_bytes() == kept, "a run that cannot start must not drop the one before it"
    capsys.readouterr()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    assert run(arguments(model, other, steps=1)) == 2
    assert "not empty" in capsys.readouterr().err


def test_damaged_and_foreign_checkpoints(model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "run"
    assert run(arguments(model, out, steps=4)) == 0
    record = json.loads((out / "run.json").read_text())
    record["status"] = "interrupted"
    (out / "run.json").write_text(json.dumps(record))
    good = (out / "checkpoint.safetensors").read_bytes()
    (out / "checkpoint.safetensors").write_bytes(good[: len(good) // 2])
    assert run(["synthesize", "--resume", str(out)]) == 2
    assert "is damaged" in capsys.readouterr().err
    (out / "checkpoint.safetensors").write_bytes(good)
    record["configuration"]["learning_rate"] = 0.5
    (out / "run.json").write_text(json.dumps(record))
    assert run(["synthesize", "--resume", str(out)]) == 2
    assert "another configuration" in capsys.readouterr().err
    (out / "run.json").write_text("{")
    assert run(["synthesize", "--resume", str(out)]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert (out / "checkpoint.safetensors").read_bytes() == good


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthesize"], "prompt: expected at least one"),
        (["synthesize", "abc", "--model", "primitive"], "neither an embedded model"),
        (["synthesize", "abc", "--preset", "imag"], "preset: expected one of"),
        (["synthesize", "abc", "--dtype", "half"], "--dtype: expected one of float32"),
        (["synthesize", "abc", "--device", "tpu:7"], "device: 'tpu:7' cannot be used here"),
        (["synthesize", "abc", "--device", "hpu"], "device: 'hpu' cannot be used here"),
        (["synthesize", "abc", "--device", "meta"], "device: 'meta' cannot be used here: its tensors have no values"),
        (["synthesize", "abc", "--model", "m" * 300 + "/x"], "model: expected a path, got 'mmm"),
        (["synthesize", "abc", "--model", "primitives", "--lora", "m" * 300], "lora: expected a path, got 'mmm"),
        (["synthesize", "abc", "--steps", "0"], "--steps: expected at least 1"),
        (["synthesize", "abc", "--learning-rate", "-1"], "--learning-rate: expected a positive number"),
        (["synthesize", "abc", "--learning-rate", "inf"], "--learning-rate: expected a finite number, got 'inf'"),
        (["synthesize", "abc", "--anneal-to", "nan"], "--anneal-to: expected a finite number, got 'nan'"),
        (["synthesize", "abc", "--lambda-fm", "much"], "--lambda-fm: expected a finite number, got 'much'"),
        (["synthesize", "abc", "--seeds", "-4"], "--seeds: expected at least 0"),
        (["synthesize", "abc", "--weighting", "heavy"], "weighting: expected uniform"),
        (["synthesize", "abc", "--levels", "up9"], "levels: expected some of"),
        (["synthesize", " "], "empty prompt"),
        (["synthesize", "--resume", "/nowhere"], "holds no run"),
        (["synthesize", "abc", "--resume", "/nowhere"], "give it alone"),
        (["synthesize", "--resume", "/nowhere", "--steps", "5"], "cannot change --steps"),
        (["synthesize", "--resume", "/nowhere", "--seeds", "0"], "cannot change --seeds"),
        (["synthesize", "abc", "--lambda-lsd", "nan"], "--lambda-lsd: expected a finite number"),
    ],
)
def test_errors_are_one_line_and_exit_2(
    model: str, words: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    if "--model" not in words and "--resume" not in words:
        words = [*words, "--model", model]
    if "--resume" not in words:
        words = [*words, "--out", str(tmp_path / "out")]
    assert run(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1, error
    assert not (tmp_path / "out").exists()


def test_a_full_disk_loses_nothing(
    model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import ldp_fast.apps.files as files

    out = tmp_path / "run"
    real, writes = os.fsync, []

    def full_after_a_while(descriptor: int) -> None:
        writes.append(descriptor)
        if len(writes) > 4:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", full_after_a_while)
    assert run(arguments(model, out)) == 2
    assert "no space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert not list(out.glob(".*.part"))
    assert load_file(out / "checkpoint.safetensors")["latents"].shape == (1, 4, 8, 8)
    assert run(["synthesize", "--resume", str(out)]) == 0
