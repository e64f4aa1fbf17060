"""A sweep of adapt ends with the paper's table: FID, CLIP score and LPIPS of each domain and guidance."""

from __future__ import annotations

import csv
import json
import os
import pathlib
from typing import Any

import pytest
from PIL import Image

from ldp_fast import cli
from ldp_fast.apps.adapt.configuration import Adaptation
from ldp_fast.apps.adapt.entry import ENTRY
from ldp_fast.apps.evaluate import features, perceptual
from ldp_fast.apps.sweep import command, domain_tables, domains, truths
from ldp_fast.apps.sweep import table as sweep_table
from ldp_fast.clip import Clip
from ldp_fast.errors import UsageError
from ldp_fast.metrics import fid
from ldp_fast.metrics.features import ClipFeatures
from ldp_fast.metrics.lpips import Lpips, all_pairs
from ldp_fast.metrics.pictures import find_pictures, read_picture
from ldp_fast.runs.jobs import Job, JobStore
from ldp_fast.runs.loop import Options
from ldp_fast.zoo import generator, world

from .adapt_runs import adaptation, leave_adapted, renders

SPHERE, CONE = "a red sphere", "a green cone"
# What the samples of each guidance show, by domain: the whole loss has reached both.
SHOWN = {
    ("ldp", SPHERE): SPHERE,
    ("ldp", CONE): CONE,
    ("lsd", SPHERE): "a white cube",
    ("lsd", CONE): CONE,
    ("clip-directional", SPHERE): "a blue torus",
    ("clip-directional", CONE): "a blue torus",
}
LSD, LDP, DIRECTIONAL = "lsd", "ldp", "clip-directional"


def make(folder: pathlib.Path, seeds: tuple[int, ...] = (0,), count: int = 6) -> JobStore:
    store = JobStore(folder, ENTRY.application)
    for prompt in (SPHERE, CONE):
        for guidance in (LDP, LSD, DIRECTIONAL):
            for seed in seeds:
                name = f"{prompt.replace(' ', '-')}-adapt-{guidance}-seed{seed}"
                found = adaptation(prompt, guidance, seed)
                leave_adapted(folder / name, found, SHOWN[guidance, prompt], count)
                labels = {"prompt": prompt, "method": "adapt", "losses": guidance, "seed": seed}
                store.write(Job(name, labels, found), "finished", seconds=1.0)
    return store


@pytest.fixture(autouse=True)
def few_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truths, "COUNT", 12)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> JobStore:
    return make(tmp_path_factory.mktemp("table") / "sweep")


PAIRS = domains.Asked(backbone="clip")


def measured(store: JobStore, asked: domains.Asked = PAIRS) -> dict[str, Any]:
    records = store.records()
    order = {(prompt, guidance): i for i, (guidance, prompt) in enumerate(SHOWN)}
    names = sorted(records, key=lambda name: order[records[name]["prompt"], records[name]["losses"]])
    return domains.measure(store.folder, {name: records[name] for name in names}, asked, progress=False)


def of(found: dict[str, Any], prompt: str, losses: str) -> dict[str, Any]:
    (row,) = [row for row in found["rows"] if (row["prompt"], row["losses"]) == (prompt, losses)]
    return dict(row)


def test_the_numbers_are_those_of_the_metrics(sweep: JobStore) -> None:
    found = measured(sweep)
    row, real = of(found, SPHERE, LDP), of(found, SPHERE, domains.REAL)
    ours = [read_picture(path) for path in find_pictures(sweep.folder / row["folder"] / "samples").pictures]
    theirs = [
        read_picture(path) for path in find_pictures(*(sweep.folder / "evaluation" / "real").glob("a-red*")).pictures
    ]
    assert (row["count"], real["count"], real["fid"]) == (6, 12, None)
    network = ClipFeatures(Clip.load("primitives/judge"))
    assert row["fid"] == pytest.approx(fid(network(ours), network(theirs)), rel=1e-4)
    lpips = Lpips.load("clip:primitives")
    for one, pictures in ((row, ours), (real, theirs)):
        pairs = all_pairs(lpips(pictures))
        assert (one["lpips"], one["lpips_std"]) == pytest.approx((pairs.mean, pairs.std), rel=1e-4)
    assert row["score"] == pytest.approx(100 * max(row["cosine"], 0), abs=1e-3)
    assert "N = 6 and 12" in found["numbers"]["fid"] and not found["reasons"]


def test_who_has_reached_the_domain_is_best_in_it(sweep: JobStore) -> None:
    found = measured(sweep)
    for prompt, others in ((SPHERE, (LSD, DIRECTIONAL)), (CONE, (DIRECTIONAL,))):
        for other in others:
            assert of(found, prompt, LDP)["fid"] < of(found, prompt, other)["fid"]
            assert of(found, prompt, LDP)["score"] > of(found, prompt, other)["score"]
    text = domain_tables.as_markdown(found)
    first, second = text.index("**FID"), text.index("**CLIP score")
    lines = [line for line in text[first:second].splitlines() if line.startswith("|")]
    assert lines[0].split() == "| domain | LDP | LSD | CLIP, directional |".split()
    best = next(line for line in lines if "best in" in line)
    # On the cone the two that have reached it are the same pictures, which is a tie.
    assert best.split() == "| best in | 2 | 1 | 0 |".split()
    assert lines[2].count("**") == 2 and "mean over 2 domains" in lines[4]
    assert "real pictures" in text[second:] and "real pictures" not in text[first:second]


def test_renders_are_seen_as_the_generator_sees(sweep: JobStore) -> None:
    measured(sweep)
    (folder,) = (sweep.folder / "evaluation" / "real").glob("a-green-cone-32-generator-*")
    z = truths.sampling.latents(truths.SEED, 0, 12, generator.SETTINGS.z_dim)
    view = generator.attributes(z).views()[5]
    wanted = world.render(world.Scene("cone", "green"), view, 32)
    assert (read_picture(folder / "000005.png").permute(1, 2, 0).numpy() == wanted).all()
    assert len(truths.views(truths.ANY, 3)) == 3 and truths.views(truths.ANY, 3)[0].background <= 0.6


def test_a_second_call_computes_nothing_anew(sweep: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured(sweep)
    # What a killed process has left long ago goes, and what another works with stays.
    left, used = (sweep.folder / "evaluation" / f".pairs-{name}" for name in ("left", "used"))
    for place in (left, used):
        place.mkdir()
    os.utime(left, (0, 0))

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "decode_picture", refuse)  # of what a network has to see
    monkeypatch.setattr(perceptual, "evaluate_pairs", refuse)
    monkeypatch.setattr(world, "render", refuse)
    assert measured(sweep) == before
    assert list((sweep.folder / "evaluation").glob(".pairs-*")) == [used]
    used.rmdir()


def test_seeds_are_averaged_and_unfinished_jobs_left_out(tmp_path: pathlib.Path) -> None:
    store = make(tmp_path / "sweep", seeds=(0, 1), count=3)
    name = "a-green-cone-adapt-lsd-seed1"
    record = store.records()[name]
    labels = {key: record[key] for key in ("prompt", "method", "losses", "seed")}
    store.write(Job(name, labels, adaptation(CONE, LSD, 1)), "failed", error="diverged")
    found = measured(store)
    assert len([row for row in found["rows"] if row["losses"] != domains.REAL]) == 11
    text = domain_tables.as_markdown(found)
    assert text.count(" ± ") == 3 * 5 + 1  # five cells of two seeds, and the sentence
    lines = list(csv.DictReader(domain_tables.as_csv(found).splitlines()))
    assert len(lines) == 13 and lines[0]["prompt"] == SPHERE and float(lines[0]["fid"]) > 0
    assert [line["fid"] for line in lines if line["losses"] == "real"] == ["", ""]


def test_real_pictures_take_the_place_of_renders(sweep: JobStore, tmp_path: pathlib.Path) -> None:
    for name, caption in (("a-red-sphere", SPHERE), (CONE, CONE)):
        (tmp_path / name).mkdir()
        for index, picture in enumerate(renders(caption, 4, seed=9)):
            Image.fromarray(picture).save(tmp_path / name / f"{index}.jpg")
    asked = domains.Asked(real=tmp_path, backbone="clip")
    domains.check(asked, [SPHERE, CONE], "primitives")
    found = measured(sweep, asked)
    assert of(found, CONE, domains.REAL)["count"] == 4 and found["real"] == f"the pictures in {tmp_path}"
    with pytest.raises(UsageError, match=r"--real: .* for each prompt in .*: missing a-blue-cone/"):
        domains.check(asked, [SPHERE, "a blue cone"], "primitives")
    with pytest.raises(UsageError, match="--real: expected a folder"):
        domains.check(domains.Asked(real=tmp_path / "nothing"), [SPHERE], "primitives")


def test_what_is_named_and_missing_is_said_before_the_jobs() -> None:
    for asked, said in (
        (domains.Asked(features="dino"), "--fid-features: expected inception, clip"),
        (domains.Asked(features="clip", weights=pathlib.Path("x.pth")), "--fid-weights: expected only with"),
        (domains.Asked(backbone="squeeze"), "--pairs-backbone: expected alex, vgg"),
    ):
        with pytest.raises(UsageError, match=said):
            domains.check(asked, [], "primitives")


def test_what_cannot_be_measured_is_said_beside_the_rest(sweep: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: Any) -> Any:
        raise UsageError("--backbone: not here")

    monkeypatch.setattr(perceptual, "load_lpips", absent)
    found = measured(sweep)
    assert found["reasons"] == {"lpips": "--pairs-backbone: not here"}
    text = domain_tables.as_markdown(found)
    assert "could not be measured: --pairs-backbone: not here" in text and "**FID" in text


def test_the_command_ends_with_the_table(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def no_retrieval(*arguments: Any, **options: Any) -> Any:
        raise UsageError("not in this test")

    monkeypatch.setattr(sweep_table, "evaluate_r_precision", no_retrieval)

    def leave(application: Any, folder: pathlib.Path, configuration: Adaptation, options: Options) -> int:
        leave_adapted(folder, configuration, SHOWN[configuration.guidance, configuration.prompt], 3)
        return 0

    monkeypatch.setattr(command.loop, "run", leave)
    (tmp_path / "prompts.txt").write_text(f"{SPHERE}\n{CONE}\n")
    words = ["--application", "adapt", "--guidance", "ldp", "clip-directional", "--device", "cpu"]
    out = tmp_path / "out"
    typed = ["sweep", str(tmp_path / "prompts.txt"), *words, "--pairs-backbone", "clip", "--out", str(out)]
    assert cli.main(typed) == 0
    said = capsys.readouterr().out
    text = (out / "table.md").read_text()
    assert text in said and f"{out / 'table.md'} (this table), table.json, table.csv, views.png" in said
    assert text.startswith("**FID") and text.count("| finished ") == 4
    table = json.loads((out / "table.json").read_text())
    assert len(table["samples"]["rows"]) == 6 and len(table["jobs"]) == 4
    assert len((out / "table.csv").read_text().splitlines()) == 7
    assert cli.main([*typed, "--real", str(tmp_path / "none")]) == 2
    assert "--real: expected a folder" in capsys.readouterr().err
