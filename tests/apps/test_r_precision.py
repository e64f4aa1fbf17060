"""`ldp-fast evaluate r-precision`: the protocol over a folder of runs, that it is paired, repeatable and resumable."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
from collections.abc import Sequence

import pytest

from ldp_fast import cli
from ldp_fast.apps.evaluate.report import as_markdown
from ldp_fast.apps.evaluate.retrieval import evaluate_r_precision
from ldp_fast.apps.text_to_3d.configuration import resolve
from ldp_fast.apps.text_to_3d.sections import TextTo3D, class_of
from ldp_fast.errors import UsageError
from ldp_fast.zoo import world

from .sweep_stand_ins import Loader, leave_run

# Distractors of few captions, where it does not matter which: CLIP takes longer for all of them than for the views.
among_few = functools.partial(
    evaluate_r_precision, pool=[scene.caption() for scene in world.all_scenes()][::10], distractors=20
)
PROMPTS = ("a red cube", "a green torus", "a white cone", "a blue and red checkered sphere")


def configuration(prompt: str, losses: str = "full", *, seed: int = 0, method: str = "latent-nerf") -> TextTo3D:
    on = losses == "full"
    settings = {"lambda_fm": 0.1 * on, "lambda_kl": 0.1 * on, "lambda_lsd": 1.0, "guidance_scale": 5.0}
    said = {"prompt": prompt, "method": method, "seed": seed, "steps": 7, "settings": settings, "device": "cpu"}
    plain = resolve({}, said)
    return class_of(plain).from_plain(plain)


def make(folder: pathlib.Path, *losses: str, seeds: tuple[int, ...] = (0,), prompts: Sequence[str] = PROMPTS) -> None:
    for prompt in prompts:
        for name in losses:
            for seed in seeds:
                run = folder / f"{prompt.replace(' ', '-')}-{name}-{seed}"
                leave_run(run, configuration(prompt, name, seed=seed))


def test_true_objects_are_hits_and_wrong_ones_are_not(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "full", "lsd")

    def shown(c: TextTo3D) -> str:
        return c.prompt if c.settings.lambda_fm else "a yellow cylinder with purple stripes"

    found = evaluate_r_precision(tmp_path, load=Loader(shown))
    lsd, full = found["rows"]
    assert (lsd["losses"], full["losses"]) == ("LSD", "LSD + FM + KL")
    assert lsd["mean"] == 0 and lsd["std"] == 0
    assert full["mean"] >= 0.75 and full["objects"] == 4 and len(full["repetitions"]) == 3
    # The objects are rendered as the truth is, from the same cameras: the verdicts are the truth's.
    assert full["repetitions"] == found["truth"]["repetitions"]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    text = as_markdown(found)
    assert "| latent-nerf " in text and "| LSD + FM + KL " in text and "0.0 ± 0.0 %" in text


def test_views_are_paired_over_the_rows_and_differ_over_prompts_and_seeds(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "full", "lsd", seeds=(0, 1), prompts=PROMPTS[:2])
    found = among_few(tmp_path, load=Loader())
    views: dict[tuple[str, int], set[str]] = {}
    for made in found["objects"]:
        seen = json.dumps([[v["azimuth"], v["elevation"]] for v in made["views"]])
        views.setdefault((made["prompt"], made["seed"]), set()).add(seen)
    assert all(len(seen) == 1 for seen in views.values())
    assert len(set.union(*views.values())) == 4
    lower = among_few(tmp_path, seeds=[0], elevation=(-30.0, -20.0), load=Loader())
    assert all(-30 <= view["elevation"] <= -20 for made in lower["objects"] for view in made["views"])
    assert "elevation -30° to -20°" in as_markdown(lower) and "elevation as in training" in as_markdown(found)
    angles = [(v["azimuth"], v["elevation"]) for made in found["objects"] for v in made["views"]]
    assert all(0 <= a <= 360 and -5 <= e <= 55 for a, e in angles)
    assert max(a for a, _ in angles) - min(a for a, _ in angles) > 180
    # Two seeds of the runs and three of the evaluation.
    assert len(found["rows"][0]["repetitions"]) == 6 and found["rows"][0]["prompts"] == 2


def test_it_is_idempotent_and_renders_only_what_is_new(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "full")
    load = Loader()
    first = among_few(tmp_path, seeds=[0], load=load)
    assert load.calls == 4
    written = (tmp_path / "evaluation.json").read_bytes()
    assert among_few(tmp_path, seeds=[0], load=load) == first and load.calls == 4
    assert (tmp_path / "evaluation.json").read_bytes() == written
    next((tmp_path / "evaluation").glob("a-red-cube-full-0-view0-*.png")).unlink()
    assert among_few(tmp_path, seeds=[0], load=load) == first and load.calls == 5
    more = among_few(tmp_path, seeds=[0, 1], load=load)
    assert load.calls == 9 and [made["views"][0] for made in more["objects"]] == [
        made["views"][0] for made in first["objects"]
    ]
    # A run made anew is rendered anew, and its old view goes.
    leave_run(tmp_path / "a-red-cube-full-0", configuration("a red cube"), step=8)
    among_few(tmp_path, seeds=[0, 1], load=load)
    assert load.calls == 10 and len(list((tmp_path / "evaluation").glob("a-red-cube-full-0-view*.png"))) == 2


def test_only_finished_runs_count_and_settings_make_rows(tmp_path: pathlib.Path) -> None:
    make(tmp_path, "full")
    leave_run(tmp_path / "running", configuration("a red cone"), "running")
    other = configuration("a red cube")
    other = dataclasses.replace(other, settings=dataclasses.replace(other.settings, guidance_scale=50.0))
    leave_run(tmp_path / "other", other)
    # What no result depends on does not make a row.
    leave_run(tmp_path / "kept", dataclasses.replace(configuration("a red torus"), checkpoint_every=7, keep=9))
    found = among_few(tmp_path, load=Loader())
    assert found["unfinished"] == ["running"]
    assert [row["settings"] for row in found["rows"]] == [
        {"settings.guidance_scale": 5.0},
        {"settings.guidance_scale": 50.0},
    ]
    text = as_markdown(found)
    assert "settings.guidance_scale 50" in text and "1 unfinished runs" in text and "not measured on the same" in text


def test_distractors_never_show_the_same(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all 459 other captions drawn, a twin of the right one among them would tie, and every view would fail."""
    leave_run(tmp_path / "run", configuration("a blue and red checkered sphere"))
    leave_run(tmp_path / "twin", configuration("a photo of a red and blue checkered sphere"))
    found = evaluate_r_precision(tmp_path, distractors=459, load=Loader())
    assert found["protocol"]["pool"] == 460
    assert any(view["hit"] for made in found["objects"] for view in made["views"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "does not hold runs"),
        (["--distractors", "0"], "--distractors: expected at least 1, got 0"),
        (["--elevation", "50", "10"], "--elevation: expected -90 <= LOW <= HIGH <= 90, got 50 10"),
        (["--seeds", "-1"], "--seeds: expected at least 0, got -1"),
        (["--prompts", "/nowhere.txt"], "/nowhere.txt: there is no such file"),
    ],
)
def test_errors_of_the_command(
    words: list[str], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["evaluate", "r-precision", str(tmp_path), *words]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_errors_of_a_folder(tmp_path: pathlib.Path) -> None:
    leave_run(tmp_path / "run", configuration("a red cube"), "interrupted")
    with pytest.raises(UsageError, match=r"does not hold a finished run \(1 unfinished\)"):
        evaluate_r_precision(tmp_path, load=Loader())
    leave_run(tmp_path / "run", configuration("a red cube"))
    with pytest.raises(UsageError, match="99 and the right one were asked for, but there are 2 different prompts"):
        evaluate_r_precision(tmp_path, pool=["a red cube", "a red torus"], load=Loader())
    with pytest.raises(UsageError, match="--clip: there is no folder '/nowhere/clip'"):
        evaluate_r_precision(tmp_path, clip="/nowhere/clip", load=Loader())
    (tmp_path / "run" / "config.yaml").write_text("prompt: a red cube\nformat: 1\n")
    with pytest.raises(UsageError, match=r"config.yaml is damaged: it lacks method"):
        evaluate_r_precision(tmp_path, load=Loader())
