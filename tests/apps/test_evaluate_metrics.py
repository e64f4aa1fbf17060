"""Each metric of `ldp-fast evaluate` on a folder of pictures and on a sweep: numbers, files, the second call."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ldp_fast import cli
from ldp_fast.apps.evaluate.report import as_markdown
from ldp_fast.apps.evaluate.retrieval import evaluate_r_precision
from ldp_fast.apps.text_to_3d import judged
from ldp_fast.clip import Clip
from ldp_fast.metrics import ClipScorer, clip_cosines, clipped_fraction, fid, kid, n_way, saturation
from ldp_fast.metrics.features import ClipFeatures
from ldp_fast.metrics.lpips import Lpips
from ldp_fast.metrics.pictures import read_picture
from ldp_fast.metrics.retrieval import bootstrap_interval
from ldp_fast.zoo import world

from .pictures import CAPTIONS, make_folder
from .sweep_stand_ins import Loader, leave_run
from .test_r_precision import configuration

JUDGE = "primitives/judge"
PROMPTS = ("a red cube", "a green torus")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_folder(tmp_path_factory.mktemp("metrics") / "pictures")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return make_folder(tmp_path_factory.mktemp("metrics") / "other", CAPTIONS[5:12])


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("metrics") / "sweep"
    for prompt, losses in itertools.product(PROMPTS, ("lsd", "full")):
        leave_run(folder / f"{prompt.replace(' ', '-')}-{losses}", configuration(prompt, losses))
    return folder


@pytest.fixture(autouse=True)
def true_scenes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    load = Loader()
    monkeypatch.setattr(judged, "load_scene", load)
    yield load


def command(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """What `ldp-fast evaluate WORDS` prints to both streams."""
    assert cli.main(["evaluate", *map(str, words)]) == 0
    found = capsys.readouterr()
    return found.out, found.err


def pictures_of(folder: pathlib.Path) -> list[torch.Tensor]:
    return [read_picture(path) for path in sorted(folder.glob("??.*"))]


def kept(place: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.glob("*.*")}


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no network and no renderer is to be used."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(Clip, "image_embeddings", refuse)
    monkeypatch.setattr(Clip, "text_embeddings", refuse)
    monkeypatch.setattr(Lpips, "__call__", refuse)
    monkeypatch.setattr(judged, "load_scene", refuse)


def test_colour(
    folder: pathlib.Path, sweep: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = command(capsys, "colour", folder, sweep)
    assert out.count(f"| {sweep}: latent-nerf, LSD") == 2 and f"| {folder} " in out
    result = json.loads((folder / "evaluation" / "colour.json").read_text())
    images = [picture[None].float() / 255 for picture in pictures_of(folder)]
    row = result["rows"][0]
    assert [one["saturation"] for one in row["pictures"]] == pytest.approx([float(saturation(x)) for x in images], 1e-5)
    assert row["clipped"]["mean"] == pytest.approx(sum(float(clipped_fraction(x)) for x in images) / 6, rel=1e-5)
    assert [one["count"] for one in result["rows"]] == [6, 6, 6] and result["rows"][1]["losses"] == "LSD"
    before = kept(folder / "evaluation")
    forbid(monkeypatch)
    assert command(capsys, "colour", folder, sweep)[0] == out and kept(folder / "evaluation") == before


def test_clip_score(
    folder: pathlib.Path, sweep: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("clip-score", folder, sweep, "--clip", "primitives", JUDGE, "--json")
    out, _ = command(capsys, *words)
    result = json.loads(out)
    assert out.encode() == (folder / "evaluation" / "clip-score.json").read_bytes()
    first = result["rows"][1]
    assert first["clip"] == JUDGE
    scorer = ClipScorer.from_pretrained(JUDGE)
    images = torch.stack([picture.float() / 255 for picture in pictures_of(folder)])
    expected = clip_cosines(scorer, images, CAPTIONS[:6])
    assert [one["cosine"] for one in first["pictures"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert first["score"]["mean"] == pytest.approx(100 * float(expected.clamp_min(0).mean()), abs=1e-3)
    assert {row["label"]: row["count"] for row in result["rows"][2:]} == {
        f"{sweep}: latent-nerf, LSD": 6,
        f"{sweep}: latent-nerf, LSD + FM + KL": 6,
    }
    assert "100·max(cosine, 0)" in command(capsys, "clip-score", folder, "--clip", JUDGE, "--prompt", "a red cube")[0]
    forbid(monkeypatch)
    assert command(capsys, *words)[0] == out


def test_fid_and_kid(
    folder: pathlib.Path, other: pathlib.Path, sweep: pathlib.Path, tmp_path: pathlib.Path, capsys: Any
) -> None:
    features = ClipFeatures(Clip.load(JUDGE))
    ours, theirs = features(pictures_of(folder)), features(pictures_of(other))
    asked = ("--features", f"clip:{JUDGE}", "--out", tmp_path)
    out, err = command(capsys, "fid", folder, "--against", other, *asked)
    assert f"FID (clip:{JUDGE}, bicubic 128; N = 6 and 7)" in out and "fid: 6 pictures are fewer than the 64" in err
    result = json.loads((tmp_path / "fid.json").read_text())
    assert result["rows"][0]["value"] == pytest.approx(fid(ours, theirs), rel=1e-3)
    command(capsys, "fid", folder, "--against", folder, *asked)
    assert json.loads((tmp_path / "fid.json").read_text())["rows"][0]["value"] == pytest.approx(0, abs=1e-6)
    out, _ = command(capsys, "kid", folder, sweep, "--against", other, *asked, "--subset-size", 4, "--subsets", 3)
    result = json.loads((tmp_path / "kid.json").read_text())
    assert result["rows"][0]["estimate"] == pytest.approx(kid(ours, theirs, subsets=3, subset_size=4).value, rel=1e-3)
    assert result["rows"][0]["value"] >= 0 and "3 subsets of 4" in out
    assert [row["count"] for row in result["rows"]] == [6, 6, 6]
    assert (
        cli.main(["evaluate", "kid", str(folder), "--against", str(other), *map(str, asked), "--subset-size", "9"]) == 2
    )
    assert "--subset-size: expected 2 to 6" in capsys.readouterr().err


def test_lpips(
    folder: pathlib.Path,
    other: pathlib.Path,
    sweep: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("lpips", folder, sweep, "--alike", 2, "--size", 32)
    out, _ = command(capsys, *words)
    assert "lpips-like (vae:primitives), 32 px; all 15 pairs of 6" in out and "This is not LPIPS" in out
    result = json.loads((folder / "evaluation" / "lpips.json").read_text())
    rows = Lpips.load("vae:primitives", side=32)(pictures_of(folder)).double()
    loop = {(i, j): float((rows[i] - rows[j]).square().sum()) for i, j in itertools.combinations(range(6), 2)}
    assert result["rows"][0]["distance"]["mean"] == pytest.approx(sum(loop.values()) / 15, rel=1e-4)
    first, second = min(loop, key=lambda pair: loop[pair])
    names = [path.name for path in sorted(folder.glob("??.*"))]
    most = result["rows"][0]["alike"][0]
    assert (most["first"], most["second"]) == (names[first], names[second]) and len(result["rows"][0]["alike"]) == 2
    # One view of an object, so that pairs are of different objects.
    assert [row["count"] for row in result["rows"][1:]] == [2, 2]
    before = kept(folder / "evaluation")
    assert "lpips.png" in before
    forbid(monkeypatch)
    assert command(capsys, *words)[0] == out and kept(folder / "evaluation") == before


def test_lpips_of_pairs_of_one_name(folder: pathlib.Path, tmp_path: pathlib.Path, capsys: Any) -> None:
    partners = make_folder(tmp_path / "partners", [CAPTIONS[0], *CAPTIONS[7:12]])
    out, _ = command(capsys, "lpips", folder, "--against", partners, "--backbone", f"clip:{JUDGE}", "--out", tmp_path)
    assert f"lpips-like (clip:{JUDGE}), 128 px; 6 pairs of one name" in out
    found = json.loads((tmp_path / "lpips.json").read_text())["rows"][0]["pictures"]
    assert found[0] == {"name": "00.png", "distance": 0.0} and all(one["distance"] > 0 for one in found[1:])


def test_r_precision_of_folders(
    folder: pathlib.Path,
    other: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ("r-precision", folder, other, "--clip", "primitives", JUDGE, "--distractors", 9)
    out, _ = command(capsys, *words)
    result = json.loads((folder / "evaluation" / "r-precision.json").read_text())
    assert [(row["path"], row["clip"]) for row in result["rows"]] == [
        (str(path), clip) for clip in ("primitives", JUDGE) for path in (folder, other)
    ]
    assert result["protocol"]["pool"] == 12 and "R-Precision, 10-way" in out and "95 % interval" in out
    for row in result["rows"]:
        hits = [one["hits"] for one in row["pictures"]]
        assert row["mean"] == pytest.approx(sum(map(sum, hits)) / (3 * len(hits)), abs=1e-6)
        assert row["interval"] == pytest.approx(bootstrap_interval(hits), abs=1e-6)
    assert (folder / "evaluation" / "r-precision.png").is_file()
    before = kept(folder / "evaluation")
    list_of_all = tmp_path / "all.txt"
    list_of_all.write_text("\n".join(scene.caption() for scene in world.all_scenes()[::5]))
    whole = ("r-precision", other, "--clip", JUDGE, "--protocol", "dreamfields", "--prompts", list_of_all, "--json")
    fixed = json.loads(command(capsys, *whole)[0])
    scorer = ClipScorer.from_pretrained(JUDGE)
    images = torch.stack([picture.float() / 255 for picture in pictures_of(other)])
    candidates = [*list_of_all.read_text().split("\n"), *CAPTIONS[5:12]]
    expected = n_way(scorer, images, CAPTIONS[5:12], candidates)
    assert [one["hits"] for one in fixed["rows"][0]["pictures"]] == [[hit] for hit in expected.tolist()]
    assert [not one["beaten_by"] for one in fixed["rows"][0]["pictures"]] == expected.tolist()
    forbid(monkeypatch)
    assert command(capsys, *words)[0] == out and kept(folder / "evaluation") == before


def test_r_precision_of_runs_by_two_clips_and_from_the_fixed_camera(
    sweep: pathlib.Path, true_scenes: Loader, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("r-precision", sweep, "--clip", "primitives", JUDGE, "--distractors", 30, "--seeds", 0, 1)
    out, _ = command(capsys, *words)
    found = json.loads((sweep / "evaluation.json").read_text())
    assert [(row["clip"], row["losses"]) for row in found["rows"]] == [
        (clip, losses) for clip in ("primitives", JUDGE) for losses in ("LSD", "LSD + FM + KL")
    ]
    assert out.count("renders of the truth") == 2 and found["truths"][JUDGE]["interval"] is not None
    view = found["objects"][0]["views"][0]
    assert view["hit"] == view["hits"]["primitives"]
    assert found["rows"][0]["mean"] == pytest.approx(
        sum(v["hits"]["primitives"] for made in found["objects"] for v in made["views"]) / 8
    )
    assert (sweep / "evaluation.png").is_file()
    alone = sweep / found["objects"][0]["folder"]
    assert found["objects"][0]["folder"] in command(capsys, "r-precision", alone, "--clip", JUDGE, "--json")[0]
    assert json.loads((alone / "evaluation" / "r-precision.json").read_text())["rows"][0]["objects"] == 1
    fixed = evaluate_r_precision(sweep, kind="dreamfields", clip=JUDGE, load=true_scenes, progress=False)
    views = [view for made in fixed["objects"] for view in made["views"]]
    assert {(view["azimuth"], view["elevation"]) for view in views} == {(330.0, 45.0)} and len(views) == 4
    assert fixed["protocol"]["distractors"] == 459 and len(fixed["rows"][0]["repetitions"]) == 1
    known = evaluate_r_precision(sweep, kind="dreamfields", known=True, truncate=True, load=true_scenes, progress=False)
    assert known["protocol"]["pool"] == 153 + len(PROMPTS) and known["protocol"]["clip"] == JUDGE
    assert "153 of the captions to choose from have words that primitives/judge does not know" in as_markdown(known)
    assert "R-Precision (DreamFields), 155-way" in as_markdown(known) and "R-Precision, 31-way" in out
