"""`ldp-fast synthesize`: what it leaves, that it resumes exactly, that nothing is lost, and its errors."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from ldp_fast import cli
from ldp_fast.runs import checkpoints


@pytest.fixture
def model(small_model: str) -> str:
    return small_model


def arguments(model: str, out: pathlib.Path, *more: str, steps: int = 6) -> list[str]:
    common = ["--model", model, "--device", "cpu", "--guidance-scale", "3", "--out", str(out)]
    return ["synthesize", "abc", *common, "--steps", str(steps), "--checkpoint-every", "2", *more]


def newest(folder: pathlib.Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoints.path_of(folder, checkpoints.steps(folder)[-1]))


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
    written = yaml.safe_load((out / "config.yaml").read_text())
    assert written["application"] == record["application"] == "synthesize"
    assert written["settings"]["lambda_fm"] == 3.0 and written["seeds"] == [0] and written["dtype"] == "float32"
    assert list((out / "log").iterdir())
    assert record["versions"]["torch"] == torch.__version__
    assert not list(out.glob(".*.part"))
    history = newest(out)["history"]
    assert history.shape[0] == 6 and torch.isfinite(history).all()


@pytest.mark.usefixtures("plain_losses")
@pytest.mark.parametrize("noises", ["1", "2"])
def test_several_prompts_and_seeds_do_not_depend_on_their_batch(
    noises: str, model: str, tmp_path: pathlib.Path
) -> None:
    words = arguments(model, tmp_path / "many", "--seeds", "0", "5", "--each-word", "--noises", noises)
    words.insert(2, "xyz")
    assert run(words) == 0
    assert len(list((tmp_path / "many" / "images").glob("*.png"))) == 4
    assert Image.open(tmp_path / "many" / "image.png").size == (128, 128)
    assert run(arguments(model, tmp_path / "one", "--seeds", "5", "--noises", noises)) == 0
    many = newest(tmp_path / "many")["latents"]
    one = newest(tmp_path / "one")["latents"]
    # AdamW's first steps divide small numbers by small numbers, so rounding shows a little.
    torch.testing.assert_close(many[1], one[0], rtol=1e-2, atol=1e-2)
    assert (many[0] - many[1]).abs().max() > 0.1


@pytest.mark.usefixtures("plain_losses")
def test_resume_continues_exactly(model: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(arguments(model, tmp_path / "whole")) == 0
    from ldp_fast.apps.synthesis import latents

    original, calls = latents.LatentOptimiser.advance, []

    def interrupted_advance(self: latents.LatentOptimiser, *arguments: Any) -> None:
        original(self, *arguments)
        calls.append(self.step)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(latents.LatentOptimiser, "advance", interrupted_advance)
    assert run(arguments(model, tmp_path / "parts")) == 130
    record = json.loads((tmp_path / "parts" / "run.json").read_text())
    assert record["status"] == "interrupted" and record["step"] == 3
    assert run(["synthesize", "--resume", str(tmp_path / "parts")]) == 0
    assert calls == [1, 2, 3, 4, 5, 6]
    whole, parts = (newest(tmp_path / name) for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    assert (tmp_path / "whole" / "image.png").read_bytes() == (tmp_path / "parts" / "image.png").read_bytes()


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    for flags in (("--learning-rate", "1e30"), ("--lambda-fm", "1e38")):
        out = tmp_path / flags[0]
        assert run([*arguments(model, out, *flags), "--checkpoint-every", "1"]) == 2
        said = re.search(r"diverged before step \d+: (.*) not finite; ", capsys.readouterr().err)
        assert said is not None and re.fullmatch(r"[^,]* is|.* and [^,]* are|the latents are", said[1]), said
        assert not (out / "image.png").exists()
        kept = [load_file(path) for path in out.glob("checkpoints/*.safetensors")]
        assert all(tensor.isfinite().all() for tensors in kept for tensor in tensors.values())
        assert json.loads((out / "run.json").read_text())["status"] != "finished"


@pytest.mark.usefixtures("plain_losses")
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


def test_a_folder_of_another_application(model: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    from . import text_to_3d_runs as runs

    other = runs.prepared(tmp_path / "object", runs.configuration(model))
    assert run(["synthesize", "--resume", str(other)]) == 2
    expected = f"{other} holds a run of text-to-3d: continue it with ldp-fast text-to-3d --resume {other}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["synthesize"], "prompt: expected at least one"),
        (["synthesize", "abc", "--model", "primitive"], "neither an embedded model"),
        (["synthesize", "abc", "--preset", "imag"], "preset: expected one of"),
        (["synthesize", "abc", "--dtype", "half"], "--dtype: expected one of float32"),
        (["synthesize", "abc", "--device", "tpu:7"], "device: 'tpu:7' cannot be used here"),
        (["synthesize", "abc", "--device", "hpu"], "device: 'hpu' cannot be used here"),
        (["synthesize", "abc", "--device", "meta"], "--device: 'meta' cannot be used here: expected one of cpu, cuda"),
        (["synthesize", "abc", "--model", "m" * 300 + "/x"], "model: expected a path, got 'mmm"),
        (["synthesize", "abc", "--model", "primitives", "--lora", "m" * 300], "lora: expected a path, got 'mmm"),
        (["synthesize", "abc", "--steps", "0"], "--steps: expected a whole number of at least 1"),
        (["synthesize", "abc", "--learning-rate", "-1"], "--learning-rate: expected a positive number"),
        (["synthesize", "abc", "--learning-rate", "inf"], "--learning-rate: expected a finite number, got 'inf'"),
        (["synthesize", "abc", "--anneal-to", "nan"], "--anneal-to: expected a finite number, got 'nan'"),
        (["synthesize", "abc", "--lambda-fm", "much"], "--lambda-fm: expected a finite number, got 'much'"),
        (["synthesize", "abc", "--seeds", "-4"], "--seeds: expected a whole number from 0"),
        (["synthesize", "abc", "--weighting", "heavy"], "--weighting: expected one of uniform"),
        (["synthesize", "abc", "--levels", "up9"], "levels: expected some of"),
        (["synthesize", " "], "empty prompt"),
        (["synthesize", "--resume", "/nowhere"], "does not hold a run of synthesize"),
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
