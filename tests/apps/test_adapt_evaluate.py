"""`ldp-fast evaluate` on runs of adapt: every picture of their samples/ is measured, with the prompt as its caption."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest

from ldp_fast import cli
from ldp_fast.apps.evaluate import retrieval
from ldp_fast.apps.evaluate.gathered import gather
from ldp_fast.apps.evaluate.report import as_markdown
from ldp_fast.apps.evaluate.retrieval import TRUTHS, evaluate_r_precision

from .adapt_runs import adaptation, leave_adapted

POOL = ("a blue cube", "a green torus", "a white cone", "a yellow cylinder", "a cyan sphere")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two domains: `ldp` has reached both, `lsd` neither, and `clip-directional` one and not the other."""
    folder = tmp_path_factory.mktemp("adapt") / "sweep"
    for prompt, half in (("a red sphere", "a red sphere"), ("a green cone", "a white cube")):
        for guidance, shown in (("ldp", prompt), ("lsd", "a white cube"), ("clip-directional", half)):
            leave_adapted(folder / f"{prompt.replace(' ', '-')}-{guidance}", adaptation(prompt, guidance), shown)
    return folder


def test_all_samples_of_runs_are_gathered(sweep: pathlib.Path) -> None:
    found = gather([sweep], captions=True)
    labels = [(group.about["method"], group.about["losses"], len(group.pictures)) for group in found.groups]
    assert sorted(labels) == [("adapt", "CLIP", 12), ("adapt", "LSD", 12), ("adapt", "LSD + FM + KL", 12)]
    assert found.model == "primitives" and found.views is None and not found.left_out
    alone = gather([sweep / "a-red-sphere-ldp"], captions=True).pictures()
    assert [(x.name, x.caption) for x in alone] == [
        (f"a-red-sphere-ldp/samples/00000{i}.png", "a red sphere") for i in range(6)
    ]


def test_r_precision_deals_the_samples_to_the_seeds(sweep: pathlib.Path, tmp_path: pathlib.Path) -> None:
    found = evaluate_r_precision(sweep, distractors=4, pool=POOL, out=tmp_path)
    rows = {row["losses"]: row for row in found["rows"]}
    assert rows["LSD + FM + KL"]["mean"] == 1 and rows["LSD"]["mean"] == 0 and rows["CLIP"]["mean"] == 0.5
    assert all(len(row["repetitions"]) == 3 for row in rows.values())
    seen = [(view["seed"], view["sample"]) for view in found["objects"][0]["views"]]
    assert sorted(sample for _, sample in seen) == [f"00000{i}.png" for i in range(6)]
    assert [seed for seed, _ in seen] == [0, 0, 1, 1, 2, 2]
    assert found["truth"]["mean"] == 1 and found["truth"]["objects"] == 2
    text = as_markdown(found)
    assert "Each picture of a run once" in text and "random camera" not in text
    # Fewer samples than seeds: each seed has them all.
    few = evaluate_r_precision(sweep / "a-red-sphere-ldp", distractors=4, pool=POOL, seeds=range(7), out=tmp_path)
    assert len(few["objects"][0]["views"]) == 42 and len(few["rows"][0]["repetitions"]) == 7


def test_the_truth_is_a_few_renders_of_a_run_with_many_samples(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_adapted(tmp_path / "run", adaptation("a red sphere"), count=TRUTHS + 4)
    drawn: list[Any] = []
    render = retrieval.world.render

    def counted(*arguments: Any) -> Any:
        drawn.append(arguments)
        return render(*arguments)

    monkeypatch.setattr(retrieval.world, "render", counted)
    found = evaluate_r_precision(tmp_path / "run", distractors=4, pool=POOL, seeds=[0])
    assert len(drawn) == TRUTHS and len(found["objects"][0]["views"]) == TRUTHS + 4


@pytest.mark.parametrize(
    "words",
    [
        ("clip-score", "RUN"),
        ("lpips", "RUN", "--backbone", "clip"),
        ("fid", "RUN", "--against", "OTHER", "--features", "clip"),
        ("kid", "SWEEP", "--against", "OTHER", "--features", "clip"),
        ("r-precision", "RUN", "--seeds", "0"),
    ],
)
def test_every_metric_takes_a_run(
    sweep: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    places = {"SWEEP": sweep, "RUN": sweep / "a-red-sphere-ldp", "OTHER": sweep / "a-red-sphere-lsd" / "samples"}
    typed = [str(places.get(word, word)) for word in words]
    assert cli.main(["evaluate", *typed, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["rows"]
    if words[0] == "r-precision":
        assert rows[0]["mean"] == 1 and rows[0]["objects"] == 1
    elif words[1] == "RUN":
        assert [row["count"] for row in rows] == [6]
    else:
        assert [row["count"] for row in rows] == [12, 12, 12]


def test_a_run_without_samples_says_how_to_make_them(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_adapted(tmp_path / "run", adaptation("a red sphere", samples=0), count=0)
    assert cli.main(["evaluate", "clip-score", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "does not hold samples/" in said
    assert f"ldp-fast generate {tmp_path / 'run'} --count N" in said
