"""The table of a sweep whose runs differ: several source generators, sizes of samples, and runs with one sample."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest
import torch

from ldp_fast import generators
from ldp_fast.apps.adapt.entry import ENTRY
from ldp_fast.apps.sweep import domain_tables, domains, truths
from ldp_fast.apps.sweep import table as sweep_table
from ldp_fast.metrics.pictures import find_pictures
from ldp_fast.runs.jobs import Job, JobStore

from .adapt_runs import adaptation, leave_adapted

SPHERE, CONE = "a red sphere", "a green cone"
SETTINGS = generators.Settings(resolution=8, z_dim=4, w_dim=4, mapping_layers=1, channels=(2, 2))


@pytest.fixture(autouse=True)
def few_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truths, "COUNT", 4)


def adapted(folder: pathlib.Path, source: str, *, run: bool = True) -> str:
    """A generator that a run of adapt has made of another one; the run's folder, or the generator's."""
    if run:
        leave_adapted(folder, adaptation(SPHERE), count=0)
    torch.manual_seed(0)
    about = {"adapted": {"prompt": SPHERE, "from": source}}
    generators.save(folder / "generator", generators.StyleGAN2(SETTINGS), about)
    return str(folder if run else folder / "generator")


def test_a_generator_is_seen_as_the_one_at_the_beginning(tmp_path: pathlib.Path) -> None:
    first = adapted(tmp_path / "first", "primitives")
    second = adapted(tmp_path / "second", first)
    third = adapted(tmp_path / "third", f"{second}/generator", run=False)
    assert {truths.kind_of(name) for name in ("primitives", first, second, third)} == {truths.EMBEDDED}
    other = adapted(tmp_path / "other", str(tmp_path / "gone"))
    torch.manual_seed(0)
    generators.save(tmp_path / "converted", generators.StyleGAN2(SETTINGS))
    circle = adapted(tmp_path / "circle", str(tmp_path / "circle"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"nothing")
    for name in (other, str(tmp_path / "converted"), circle, str(tmp_path / "damaged"), "afhqcat", None):
        assert truths.kind_of(name) == truths.ANY


def store_of(folder: pathlib.Path, runs: dict[tuple[str, str], tuple[str, int]]) -> JobStore:
    """A finished sweep: by prompt and guidance the source generator, and how many samples there are."""
    store = JobStore(folder, ENTRY.application)
    for (prompt, guidance), (source, count) in runs.items():
        name = f"{prompt.replace(' ', '-')}-adapt-{guidance}-seed0"
        found = dataclasses.replace(adaptation(prompt, guidance), generator=source)
        leave_adapted(folder / name, found, count=count)
        labels = {"prompt": prompt, "method": "adapt", "losses": guidance, "seed": 0}
        store.write(Job(name, labels, found), "finished", seconds=1.0)
    return store


def test_each_run_is_held_against_what_its_own_source_would_show(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = adapted(tmp_path / "mine", "primitives")
    runs = {(SPHERE, "ldp"): ("afhqcat", 2), (SPHERE, "lsd"): (mine, 2), (CONE, "ldp"): ("primitives", 2)}
    store = store_of(tmp_path / "sweep", runs)
    against: list[tuple[str, str]] = []

    def distance(metric: str, one: object, other: object, *more: object, **options: object) -> dict[str, object]:
        (group,), (real,) = one.groups, other.groups  # type: ignore[attr-defined]
        against.append((group.label, real.pictures[0].file.parent.name.rpartition("-")[0]))
        return {"rows": [{"value": 1.0, "number": "FID"}]}

    monkeypatch.setattr(domains.distances, "evaluate_distance", distance)
    monkeypatch.setattr(domains, "load_features", lambda *arguments: None)
    monkeypatch.setattr(domains, "_scores", lambda *arguments: None)
    monkeypatch.setattr(domains, "_pairs", lambda *arguments: None)
    found = domains.measure(store.folder, store.records(), domains.Asked(), progress=False)
    assert dict(against) == {
        "a-red-sphere-adapt-ldp-seed0": "a-red-sphere-32-any",
        "a-red-sphere-adapt-lsd-seed0": "a-red-sphere-32-generator",
        "a-green-cone-adapt-ldp-seed0": "a-green-cone-32-generator",
    }
    seen = "4 renders of the prompt, seen"
    cubes = "as the embedded generator sees its cubes, 32 pixels"
    assert found["real"] == f"{seen} {cubes} ({CONE}, {SPHERE}) and {seen} from any side, 32 pixels ({SPHERE})"
    assert found["notes"] == [f"the runs of {SPHERE!r} have FID to different pictures: do not compare them"]
    reals = [(row["prompt"], row["losses"]) for row in found["rows"] if row["folder"] is None]
    assert reals == [(CONE, f"real, {cubes}"), (SPHERE, "real, from any side, 32 pixels"), (SPHERE, f"real, {cubes}")]
    # They are real pictures in the tables too, and not guidances.
    for row in found["rows"]:
        row["cosine"] = 0.5
    found["numbers"] = {"cosine": "cosine"}
    found["reasons"] = dict.fromkeys(("fid", "lpips"), "not in this test")
    text = domain_tables.as_markdown(found)
    assert "| real pictures, from any side, 32 pixels |" in text and f"| real pictures, {cubes} |" in text
    assert "Of 2 samples of each run" in text


def test_one_kind_of_source_goes_without_a_name(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path / "sweep", {(SPHERE, "ldp"): ("primitives", 1), (CONE, "ldp"): ("primitives", 1)})
    for name in ("_distances", "_scores", "_pairs", "load_features", "load_pairs"):
        monkeypatch.setattr(domains, name, lambda *arguments: None)
    found = domains.measure(store.folder, store.records(), domains.Asked(), progress=False)
    assert found["real"] == "4 renders of the prompt, seen as the embedded generator sees its cubes, 32 pixels"
    assert [row["losses"] for row in found["rows"]] == ["ldp", "ldp", "real", "real"] and not found["notes"]
    made = find_pictures(next((store.folder / "evaluation" / "real").iterdir())).pictures
    assert len(made) == 4


def test_a_single_sample_is_not_three(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_of(tmp_path / "sweep", {(SPHERE, "ldp"): ("primitives", 1), (CONE, "ldp"): ("primitives", 6)})
    names = [f"{prompt}-adapt-ldp-seed0" for prompt in ("a-red-sphere", "a-green-cone")]
    jobs = [Job(name, {}, adaptation(SPHERE)) for name in names]
    monkeypatch.setattr(sweep_table, "write_sheets", lambda store, rows: [])
    sweep_table.write_table(jobs, store)
    one, many = json.loads((store.folder / "table.json").read_text())["jobs"]
    assert (len(one["hits"]), one["samples"], len(many["hits"]), many["samples"]) == (3, 1, 6, 6)
    lines = [line for line in capsys.readouterr().out.splitlines() if "| finished " in line]
    assert f"{sum(one['hits'])} of 3 looks at 1 picture |" in lines[0] and f"| {sum(many['hits'])} of 6 " in lines[1]
    text = (store.folder / "table.md").read_text()
    assert "Each picture of a run once (of a run with fewer than 3: each in every part)" in text
