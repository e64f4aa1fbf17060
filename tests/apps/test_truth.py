"""`ldp-fast evaluate truth`: each defect fails its own criterion and no other; the command, its files, bad input."""

from __future__ import annotations

import json
import math
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ldp_fast import cli
from ldp_fast.apps.evaluate import evidence, reachable
from ldp_fast.apps.evaluate import judge as judges
from ldp_fast.apps.evaluate import truth as module
from ldp_fast.apps.evaluate.judge import judge
from ldp_fast.apps.evaluate.measured import Measured
from ldp_fast.apps.evaluate.truth import evaluate_truth
from ldp_fast.apps.text_to_3d.scene import read_configuration
from ldp_fast.errors import UsageError
from ldp_fast.metrics.truth import Pose
from ldp_fast.zoo import captions, world

from .solid_scene import SolidField, SolidScene
from .sweep_stand_ins import leave_run
from .test_r_precision import configuration

RESOLUTION = 48


def scene_that_shows(caption: str, size: int = 16, **defects: Any) -> SolidScene:
    shown = captions.scene_of(caption)
    assert shown is not None
    return SolidScene(SolidField(shown, **defects), size)


def judged(asked: str, shown: str | None = None, size: int = 16, **defects: Any) -> dict[str, Any]:
    return judge(scene_that_shows(shown or asked, size, **defects), asked, resolution=RESOLUTION)


def test_a_solid_in_another_pose_is_right_and_so_is_its_pattern() -> None:
    pose = Pose(0.4, 0.9, (0.1, -0.05, 0.08))
    found = judged("a photo of a red cube with blue stripes, side view", size=32, pose=pose)
    assert found["right"] and found["failing"] == [] and found["caption"] == "a red cube with blue stripes"
    assert found["shape"]["iou"] > 0.93 and found["shape"]["iou_hull"] > 0.85 and found["shape"]["chamfer"] < 0.02
    assert found["pose"]["scale"] == pytest.approx(0.9, abs=0.03)
    assert found["pose"]["shift"] == pytest.approx(pose.shift, abs=0.02)
    assert found["pose"]["yaw_degrees"] % 90 == pytest.approx(math.degrees(0.4), abs=3)
    red, blue = found["colour"]["parts"]
    assert (red["name"], blue["name"]) == ("red", "blue") and 0.3 < blue["share"] < 0.7
    assert found["colour"]["neither"] < 0.02
    pattern = found["colour"]["pattern"]
    assert pattern["alike"] and pattern["found"]["kind"] == "rings" and pattern["agreement"] > 0.85
    clean = found["cleanliness"]
    assert clean["fog"] < 0.002 and clean["opacity"] > 0.99 and clean["shows_through"] < 0.02
    assert clean["outline_fog"] < 0.05 and clean["normal_noise"] < 5


def test_speckled_normals_and_translucent_objects_are_told() -> None:
    even, speckled = (judged("a red cube", speckle=speckle)["cleanliness"] for speckle in (0.0, 0.5))
    assert speckled["normal_noise"] > 3 * even["normal_noise"] and speckled["outline_fog"] == even["outline_fog"]
    assert judged("a red cube", fog=0.2)["cleanliness"]["outline_fog"] > 0.3


def test_a_solid_of_revolution_is_turned_by_its_checks() -> None:
    found = judged("a white and green checkered cylinder", size=32, pose=Pose(yaw=0.4))
    assert found["right"] and found["colour"]["pattern"]["alike"] and found["colour"]["pattern"]["agreement"] > 0.8
    assert found["pose"]["yaw_degrees"] % 90 == pytest.approx(math.degrees(0.4), abs=3)


@pytest.mark.parametrize(
    ("asked", "shown", "defects", "fails"),
    [
        ("a red sphere", "a red sphere", {"stretch": (1.0, 0.6, 1.0)}, "shape"),
        ("a red cylinder", "a red cylinder", {"hollow": lambda p: np.abs(p[:, 1] - 0.42) < 0.08}, "bodies"),
        ("a red sphere", "a red sphere", {"fog": 0.05}, "fog"),
        ("a red sphere", "a green sphere", {}, "colours stray"),
        ("a red cylinder with blue stripes", "a red cylinder", {}, "colours"),
    ],
    ids=["squashed", "cut", "foggy", "another colour", "without its stripes"],
)
def test_a_defect_fails_its_own_criteria(asked: str, shown: str, defects: dict[str, Any], fails: str) -> None:
    found = judged(asked, shown, **defects)
    assert found["failing"] == fails.split() and not found["right"]


@pytest.mark.parametrize("shown", ["along", "halves", "checks", "swapped"])
def test_another_pattern_is_not_right(shown: str) -> None:
    asked, white, green = "a white cylinder with green stripes", world.COLOURS["white"], world.COLOURS["green"]

    def painted(points: np.ndarray) -> np.ndarray:
        wave = np.sin(6 * np.arctan2(points[:, :1], points[:, 2:])) if shown == "along" else points[:, :1]
        return np.where(wave > 0, [green], [white])

    if shown == "checks":
        found = judged(asked, "a white and green checkered cylinder")
    elif shown == "swapped":
        found = judged(asked, "a green cylinder with white stripes")
        assert found["right"] and found["colour"]["pattern"]["agreement"] < 0.5
        return
    else:
        found = judged(asked, albedo=painted)
    assert found["failing"] == ["pattern"] and not found["right"]


def test_what_the_colours_say() -> None:
    def painted(points: np.ndarray) -> np.ndarray:
        return np.where(points[:, :1] > 0.3, [world.COLOURS["green"]], [world.COLOURS["red"]])

    found = judged("a red sphere", albedo=painted)["colour"]
    assert 0.15 < found["neither"] < 0.5 and found["parts"][0]["error"] > 15
    without = judged("a red cylinder with blue stripes", "a red cylinder")["colour"]
    assert without["parts"][1] == {"asked": "blue", "name": None, "share": 0.0, "error": None}
    assert without["parts"][0]["error"] < 6 and not without["pattern"]["alike"]


def test_a_cap_of_another_colour_is_stray() -> None:
    def capped(points: np.ndarray) -> np.ndarray:
        return np.where(points[:, 1:2] > 0.62, [world.COLOURS["green"]], [world.COLOURS["red"]])

    found = judged("a red sphere", albedo=capped)
    assert found["failing"] == ["stray"] and found["colour"]["parts"][0]["name"] == "red"


def test_nothing_and_fog_alone_are_measured_too() -> None:
    nothing = judged("a red torus", hollow=lambda p: p[:, 1] < 9)
    assert nothing["failing"] == ["shape", "bodies", "opacity", "colours"] and nothing["level"] is None
    fog = judged("a red torus", hollow=lambda p: p[:, 1] < 9, fog=0.2)
    assert {"shape", "fog"} <= set(fog["failing"]) and fog["cleanliness"]["fog"] > 0.1
    json.dumps([nothing, fog], allow_nan=False)


@pytest.mark.parametrize("grey", [0.45, None])
def test_what_closes_the_hole_of_a_torus_fails(grey: float | None) -> None:
    class Plugged(SolidField):
        def forward(self, positions: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
            density, channels = super().forward(positions, count)
            plug = (positions[:, (0, 2)].norm(dim=1) < 0.5) & (positions[:, 1].abs() < 0.08) & (density < 1)
            colour = torch.tensor([*([grey] * 3 if grey else world.COLOURS["red"]), 0.0])
            return torch.where(plug, 80.0, density), torch.where(plug[:, None], colour, channels)

    asked = captions.scene_of("a red torus")
    assert asked is not None
    found = judge(SolidScene(Plugged(asked)), "a red torus", resolution=RESOLUTION)
    assert found["failing"] == ["hole"] and found["cleanliness"]["hole"] > 0.8
    # As much fog as a whole view full of it is little of all views.
    assert found["cleanliness"]["fog"] < 0.02
    assert judged("a red torus")["cleanliness"]["hole"] < 0.1
    assert judged("a red cube")["cleanliness"]["hole"] is None


def test_what_the_box_cuts_off_is_missing() -> None:
    # The whole sphere has 1.6 times the volume of what is left of it, and no smaller one has this form.
    cut = judged("a red sphere", pose=Pose(0.0, 1.3, (0.4, 0.4, 0.4)))
    assert "shape" in cut["failing"] and cut["shape"]["iou"] < 0.8
    inside = judged("a red sphere", pose=Pose(0.0, 1.0, (0.15, -0.15, 0.1)))
    assert inside["right"] and inside["shape"]["iou"] > 0.95


def test_what_one_sees_through_fails() -> None:
    found = judged("a white sphere", dense=1.0)
    assert found["failing"] == ["opacity"] and 0.5 < found["cleanliness"]["opacity"] < 0.9


def test_what_cannot_be_measured_is_said() -> None:
    scene = scene_that_shows("a red cube")
    decode = scene.decode
    scene.decode = lambda latents: decode(latents) * float("nan")  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="its pictures are not all finite"):
        judge(scene, "a red cube", resolution=RESOLUTION)
    near = scene_that_shows("a red cube")
    near.orbit |= {"radius": 1.6, "fov": 20.0}
    with pytest.raises(UsageError, match="so near that every ray hits the solid"):
        judge(near, "a red cube", resolution=RESOLUTION)


class Load:
    """`load_scene`'s place: red things are as they should be, others are spheres; `stop_at`: interrupted there."""

    def __init__(self, stop_at: str = "") -> None:
        self.loaded: list[str] = []
        self.stop_at = stop_at

    def __call__(self, folder: pathlib.Path, device: str | None = None) -> SolidScene:
        if folder.name == self.stop_at:
            raise KeyboardInterrupt
        self.loaded.append(folder.name)
        if folder.name == "damaged":
            raise UsageError("its checkpoint is damaged")
        prompt = read_configuration(folder).prompt
        return scene_that_shows(prompt if "red" in prompt else "a blue sphere")


@pytest.fixture
def runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setattr(module, "load_scene", Load())
    monkeypatch.setattr(evidence, "RESOLUTION", RESOLUTION)
    monkeypatch.setattr(reachable, "STEPS", 64)
    leave_run(tmp_path / "cube", configuration("a red cube"))
    leave_run(tmp_path / "torus", configuration("a blue torus", "lsd"))
    leave_run(tmp_path / "cone", configuration("a red cone"), "running")
    leave_run(tmp_path / "damaged", configuration("a red cone"))
    return tmp_path


def test_the_command_measures_a_folder(runs: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "truth", str(runs), "--reachable"]) == 0
    said = capsys.readouterr()
    table = said.out.splitlines()
    assert "| 1 = 100 % (21 to 100) " in table[3] and "| 0 = 0 % (0 to 79) " in table[2]
    assert "the truth itself, through this VAE" in table[4] and "| 2 = 100 % (34 to 100) " in table[4]
    assert "is at least 0.8; at least 0.95 of it is one body" in said.out and "at most 0.02" in said.out
    assert "Not measured: cone: unfinished; damaged: its checkpoint is damaged." in said.out
    assert "cube: right (IoU 0.9" in said.err and "torus: wrong: shape" in said.err
    found = json.loads((runs / "truth.json").read_text())
    assert list(found["skipped"]) == ["cone", "damaged"] and found["thresholds"]["least_iou"] == 0.8
    assert [made["right"] for made in found["objects"]] == [True, False]
    assert found["rows"][0]["failing"]["shape"] == 1 and found["rows"][1]["failing"]["shape"] == 0
    with Image.open(runs / "truth.png") as picture:
        # Two rows of four views and as many of the truth, each of 64 pixels, below two lines of text.
        assert picture.size == (8 * 64 + 8, 2 * (64 + 32))


def measured(runs: pathlib.Path, through: bool = False, stop_at: str = "") -> tuple[dict[str, Any], list[str], str]:
    """What was found, which runs were loaded for that, and what was told."""
    load, told = Load(stop_at), list[str]()
    found = evaluate_truth(runs, resolution=RESOLUTION, through=through, load=load, told=told.append)
    return found, load.loaded, "\n".join(told)


def test_an_interruption_loses_only_the_run_it_meets(runs: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(runs, stop_at="torus")
    first, loaded, told = measured(runs)
    assert loaded == ["damaged", "torus"] and told.count("measured before") == 1 and "cube: right (IoU 0.9" in told
    written = {name: (runs / name).read_bytes() for name in ("truth.json", "truth.png")}
    again, loaded, told = measured(runs)
    assert again == first and loaded == ["damaged"] and told.count("measured before") == 2
    assert written == {name: (runs / name).read_bytes() for name in written}
    # What came from files is what is measured without them; what cannot be read is measured again.
    kept = sorted((runs / "evaluation").iterdir())
    assert [path.name.rpartition("-")[0] for path in kept] == ["cube-truth", "cube-truth", "torus-truth", "torus-truth"]
    for whole, content in zip(kept, (b"null", b"", b"{", b"\x89PNG"), strict=True):
        whole.write_bytes(content)
    assert measured(runs)[0] == first and written == {name: (runs / name).read_bytes() for name in written}


def test_a_later_call_measures_what_is_new(runs: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _, _ = measured(runs)
    # A file that was added later is not another run; the solids were not asked for before.
    record = json.loads((runs / "cube" / "run.json").read_text())
    (runs / "cube" / "run.json").write_text(json.dumps(record | {"files": ["config.yaml", "run.json", "mesh.glb"]}))
    found, loaded, _ = measured(runs, through=True)
    assert loaded == ["cube", "damaged", "torus"] and found["reachable"]["objects"] == 2
    assert found["objects"] == first["objects"] and measured(runs, through=True)[1] == ["damaged"]
    # A run that was made anew: of it one record stays.
    leave_run(runs / "cube", configuration("a red cube"), step=8)
    assert measured(runs)[1] == ["cube", "damaged"] and len(list((runs / "evaluation").iterdir())) == 4
    # A lower threshold is another verdict.
    before = {path.name for path in (runs / "evaluation").iterdir()}
    monkeypatch.setattr(judges, "LEAST_IOU", 0.1)
    monkeypatch.setattr(
        module, "measure", lambda scene, *_: Measured({**first["objects"][0]}, np.zeros((2, 1, 4, 4, 3)), None)
    )
    assert measured(runs)[1] == ["cube", "damaged", "torus"]
    assert before.isdisjoint(path.name for path in (runs / "evaluation").iterdir())


def test_a_run_alone_and_what_cannot_be_measured(
    runs: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate_truth(runs / "cube", resolution=RESOLUTION)
    assert [made["folder"] for made in found["objects"]] == ["cube"] and (runs / "cube" / "truth.json").exists()
    assert found["reachable"] is None
    assert {"truth.json", "truth.png"} <= set(json.loads((runs / "cube" / "run.json").read_text())["files"])
    for name, reason in (("cone", "unfinished"), ("damaged", "its checkpoint is damaged")):
        with pytest.raises(UsageError, match=rf"does not hold a run that can be measured \({name}: {reason}\)"):
            evaluate_truth(runs / name)
    (empty := tmp_path / "empty").mkdir()
    (file := tmp_path / "file").touch()
    for place, reason in (
        (runs / "nowhere", "does not exist"),
        (file, "is not a folder"),
        (empty, "does not hold runs"),
    ):
        assert cli.main(["evaluate", "truth", str(place)]) == 2
        assert f"{place} {reason}" in capsys.readouterr().err
    with pytest.raises(UsageError, match="'a horse' is not a caption of the embedded model's world"):
        judge(scene_that_shows("a red cube"), "a horse")


def test_runs_of_other_worlds_are_skipped(tmp_path: pathlib.Path) -> None:
    words = configuration("a red cube, made of glass")
    leave_run(tmp_path / "glass", words)
    other = type(words).from_plain({**words.plain(), "prompt": "a red cube", "model": "somebody/diffusion"})
    leave_run(tmp_path / "other", other)
    with pytest.raises(UsageError, match=r"glass: 'a red cube, made of glass' is not a caption.*not an embedded one"):
        evaluate_truth(tmp_path)
