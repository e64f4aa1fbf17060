"""How often the model is wrong at which view: the plan, batches that continue, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.views import __main__ as command
from benchmarks.views import batches, plan, tables
from benchmarks.views.batches import Batches
from benchmarks.views.plan import Plan, Task, plan_of
from ldp_fast.apps.text_to_3d.cameras import direction_of
from ldp_fast.errors import UsageError
from ldp_fast.guidance.loading import locate
from ldp_fast.zoo import captions, world

from .few_views import few_views

FEW = ["--captions", "2", "--held-out", "1", "--views-each", "1", "--steps", "1"]


@pytest.fixture
def quick() -> Iterator[None]:
    with few_views(AZIMUTHS=2, ELEVATIONS=(20,), DISTANCES=(1.0,), EVALUATIONS=0):
        yield


def planned(model: str = "primitives", **changed: Any) -> Plan:
    asked: dict[str, Any] = {"seen": 4, "held_out": 2, "samples": 1, "each": 2, "seed": 0, "steps": 1}
    return plan_of(model, **{**asked, "guidance": None, "truth": False, **changed})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Another model's: the embedded one's weights, and notes of its own."""
    made = tmp_path / "model"
    shutil.copytree(locate("primitives"), made)
    return made


def note(folder: Path, **changed: Any) -> None:
    file = folder / "ldp_fast.json"
    notes = {name: value for name, value in {**json.loads(file.read_text()), **changed}.items() if value is not None}
    file.write_text(json.dumps(notes))


def test_views_are_those_of_text_to_3d_and_each_comes_as_often() -> None:
    found = planned(seen=20, held_out=10)
    assert len(found.views) == 10 and {"low front", "raised side", "overhead"} <= set(found.views)
    asked = [task.view for task in found.tasks()]
    assert {asked.count(view) for view in found.views} == {6}
    assert found.tasks()[0].prompt.endswith(" front view")
    everywhere = planned(each=None, samples=2)
    pairs = [(task.caption, task.view) for task in everywhere.tasks()]
    assert len(pairs) == 2 * len(set(pairs)) == 2 * 6 * 10


def test_held_out_combinations_are_apart() -> None:
    found = planned(seen=20, held_out=10)
    for task in found.tasks():
        scene = captions.scene_of(task.caption)
        assert scene is not None and scene.held_out() == (task.group == "held out")
    images = [
        {"group": task.group, "caption": task.caption, "asked": task.view, "right": task.group == "seen"}
        | {"failing": [] if task.group == "seen" else ["colours"], "height": True, "outside": 0.0, "side": None}
        for task in found.tasks()
    ]
    groups = tables.groups(found, images)
    assert [groups[name]["all"]["share"] for name in ("all", "seen", "held out")] == [pytest.approx(2 / 3), 1, 0]
    assert groups["held out"]["all"]["failing"]["colours"] == 20
    assert sum(groups["seen"][name]["images"] for name in world.PATTERNS) == 40
    assert "| held out | 0/20 = 0 % (0 to 16) " in tables.document(found, images).replace("  ", " ")


def test_a_height_is_the_word_of_its_elevation() -> None:
    spans = plan.spans(world.HEIGHTS)
    assert spans["raised"] == pytest.approx((15.1, 35)) and spans["overhead"] == pytest.approx((60.1, 90))
    task = Task(0, "seen", "a red cube", "raised side")
    for elevation, shown, outside in ((20, "raised", 0), (12, "low", 3.1), (41, "high", 6), (80, "overhead", 45)):
        found = plan.held_against(task, 100, elevation, world.HEIGHTS)
        assert plan.height_of(found["shown"]) == shown and found["height"] == (shown == "raised")
        assert found["outside"] == pytest.approx(outside) and found["side"] is True
    assert plan.held_against(task, 10, 20, world.HEIGHTS)["side"] is False
    above = dataclasses.replace(task, view="overhead")
    assert plan.held_against(above, 10, 80, world.HEIGHTS)["side"] is None
    # Without words for heights, everything up to overhead is as it was asked for.
    assert plan.held_against(dataclasses.replace(task, view="side"), 100, 50, {})["height"] is True


def test_two_cameras_see_the_same_of_a_plain_sphere() -> None:
    """Mirrored at the light's height and azimuth: the light is as far to the right and as high in the picture."""
    light = math.atan2(world.LIGHT[0], world.LIGHT[2])
    up, away = world.LIGHT[1], math.hypot(world.LIGHT[0], world.LIGHT[2])
    aside, elevation = math.radians(30), math.radians(10)
    turned = 2 * math.atan2(away * math.cos(aside), up)
    one = world.View(light + aside, elevation)
    two = world.View(light + math.pi - aside, elevation + turned)
    sphere, striped = (captions.scene_of(f"a red sphere{more}") for more in ("", " with blue stripes"))
    assert sphere is not None and striped is not None
    assert np.abs(world.render(sphere, one).astype(int) - world.render(sphere, two)).max() <= 1
    assert not plan.shows_camera(sphere) and plan.shows_camera(striped)
    task = Task(0, "seen", sphere.caption(), "low front")
    assert plan.held_against(task, 0.0, 10.0, world.HEIGHTS)["height"] is None


def test_true_renders_are_right_and_have_their_own_heights(tmp_path: Path) -> None:
    found = dataclasses.replace(planned(truth=True, each=5), seen=("a red cone with blue stripes",), held_out=())
    for task in found.tasks():
        view = batches.camera(found, task)
        assert direction_of(*(math.degrees(x) for x in (view.azimuth, view.elevation)), found.heights) == task.view
    work = Batches(tmp_path, found, lambda: pytest.fail("no model is needed"))
    with few_views(AZIMUTHS=12, ELEVATIONS=range(-5, 90, 15), DISTANCES=(1.0,)):
        record = work.make(0)
    assert record is not None and work.left() == []
    assert all(image["right"] and image["height"] for image in record["images"])
    assert max(image["elevation_error"] for image in record["images"]) < 3
    assert "from the camera's in the mean" in tables.document(found, work.images())


def test_a_batch_resumes_and_the_same_command_goes_on(
    quick: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command.Batches.__init__, "__defaults__", (2,))
        assert command.main(["--out", str(out), *FEW, "--limit-batches", "1"]) == 0
        assert "batch 1 of 2: " in capsys.readouterr().out
        kept = (out / "batches" / "0000.png").read_bytes()
        first = json.loads((out / "batches" / "0000.json").read_text())
        (out / "batches" / "0000.json").unlink()  # as if it had been stopped while it was measured
        assert command.main(["--out", str(out), *FEW]) == 0
    said = capsys.readouterr().out
    assert "2 batches to make" in said and "3 of 3 pictures" in said and "all are there" in said
    assert (out / "batches" / "0000.png").read_bytes() == kept
    assert json.loads((out / "batches" / "0000.json").read_text())["images"] == first["images"]
    results = json.loads((out / "results.json").read_text())
    assert results["groups"]["seen"]["all"]["images"] == 2 and results["groups"]["held out"]["all"]["images"] == 1
    # After one step nothing is right, and each has its line.
    assert len((out / "failures.txt").read_text().splitlines()) == 3 and (out / "failures.png").is_file()
    assert command.main(["--out", str(out), *FEW, "--samples", "2"]) == 2
    assert "has a plan with other samples: choose another --out" in capsys.readouterr().err


def test_a_stopped_batch_keeps_its_pictures(tmp_path: Path) -> None:
    found = planned(truth=True)
    work = Batches(tmp_path, found, lambda: pytest.fail("no model is needed"))
    assert work.make(0, lambda: True) is None
    assert work.pictures(0).shape == (12, 128, 128, 3) and work.left() == [0] and work.expected() is None
    assert np.array_equal(work.pictures(0)[9], batches.render(found, found.tasks()[9]))


def test_a_picture_does_not_depend_on_its_batch() -> None:
    from ldp_fast.zoo.evaluate import pipeline_of

    found, pipe = planned(), pipeline_of(locate("primitives"))
    both = batches.made(found, found.tasks()[:2], pipe)
    alone = batches.made(found, found.tasks()[1:2], pipe)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1


def test_the_folder_of_another_model_works(folder: Path) -> None:
    assert planned(str(folder)).weights == planned().weights
    note(folder, heights=None, guidance_scale=3)
    found = planned(str(folder))
    assert found.views == ("front", "side", "back", "overhead") and found.guidance == 3
    assert planned(str(folder), guidance=4.5).guidance == 4.5
    note(folder, guidance_scale=None)
    with pytest.raises(UsageError, match=r"--guidance-scale: expected a number, for .* does not name its own"):
        planned(str(folder))
    note(folder, words=["a"])
    with pytest.raises(UsageError, match=r"--model: expected a model of the embedded world, got .* does not list"):
        planned(str(folder))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"held_out": 500}, r"--held-out: expected 0 to \d+, got 500"),
        ({"seen": 0, "held_out": 0}, "--captions and --held-out together: expected at least 1, got 0"),
        ({"each": 11}, "--views-each: expected 1 to 10, got 11"),
        ({"samples": 0}, "--samples: expected at least 1, got 0"),
    ],
    ids=["held out", "nothing", "each", "samples"],
)
def test_what_cannot_be_planned_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(**changed)


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--out", str(tmp_path), "--model", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.views: model: ")
    assert command.main(["--out", str(tmp_path / "out"), "--guidance-scale", "nan"]) == 2
    assert command.main(["--out", str(tmp_path / "out"), "--limit-batches", "-1"]) == 2
    said = capsys.readouterr().err
    assert "--guidance-scale: expected a finite number, got nan" in said and "--limit-batches: expected at" in said
    assert not (tmp_path / "out").exists()
