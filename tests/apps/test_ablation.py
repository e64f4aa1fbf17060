"""`ldp-fast ablate`: four runs, one figure, the numbers beside it; the same command again continues."""

from __future__ import annotations

import json
import pathlib

import pytest
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps.synthesis import run as image_synthesis
from ldp_fast.apps.synthesis.configuration import Synthesis
from ldp_fast.runs.loop import Options


def run(words: list[str]) -> int:
    try:
        return cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def words(out: pathlib.Path, *more: str) -> list[str]:
    short = ["--steps", "2", "--metric-prompts", "1", "--device", "cpu", "--out", str(out)]
    return ["ablate", "a red cube", *short, *more]


def test_a_prompt_that_the_judge_does_not_read_whole(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "ablation"
    assert run(["ablate", " ".join(["a red cube"] * 9), *words(out)[2:]]) == 2
    assert "these words would be lost" in capsys.readouterr().err and not out.exists(), "before hours of work"


@pytest.mark.usefixtures("plain_losses")
def test_figure_and_numbers(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out, original, calls = tmp_path / "ablation", image_synthesis.synthesize, []
    assert run(["ablate", "a red dragon", *words(out)[2:]]) == 2
    assert "dragon" in capsys.readouterr().err and not out.exists()

    def stop_at_the_third(folder: pathlib.Path, configuration: Synthesis, options: Options) -> int:
        calls.append((folder.name, configuration.settings.lambda_fm > 0, configuration.settings.lambda_kl > 0))
        return 130 if len(calls) == 3 else original(folder, configuration, options)

    monkeypatch.setattr("ldp_fast.apps.synthesis.ablation.synthesize", stop_at_the_third)
    assert run(words(out)) == 130
    assert calls == [("lsd", False, False), ("lsd-fm", True, False), ("lsd-kl", False, True)]
    assert run(words(out)) == 0
    assert [name for name, *_ in calls[3:]] == ["lsd-kl", "full"]
    figure = Image.open(out / "ablation.png")
    assert figure.size[0] > 800 and figure.size[1] > 300
    record = json.loads((out / "ablation.json").read_text())
    assert set(record["results"]) == {"lsd", "lsd-fm", "lsd-kl", "full", "renders"}
    for row in record["results"].values():
        assert 0 <= row["r_precision"] <= 1 and 0 <= row["saturation"] <= 1
    assert "LSD + FM + KL" in capsys.readouterr().out
    assert run(words(out, "--seed", "3")) == 2
    assert "other settings" in capsys.readouterr().err
